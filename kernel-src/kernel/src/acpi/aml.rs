//! The one value wanted of AML: `Name (\_S5, Package { SLP_TYPa, … })` (7.4.2, 20.2).

const NAME: u8 = 0x08;
const PACKAGE: u8 = 0x12;
const ZERO: u8 = 0x00;
const ONE: u8 = 0x01;
const BYTE: u8 = 0x0A;
const ROOT: u8 = b'\\';
/// `SLP_TYP` has three bits (table 4.20).
const LARGEST_TYPE: u8 = 7;

/// The first element of the package that `_S5_` names, if one does.
pub(super) fn s5_type(aml: &[u8]) -> Option<u8> {
    let mut places = aml.windows(4).enumerate().filter(|(_, name)| name == b"_S5_");
    places.find_map(|(at, _)| named_package(&aml[..at], &aml[at + 4..]))
}

fn named_package(before: &[u8], after: &[u8]) -> Option<u8> {
    match before {
        [.., NAME] | [.., NAME, ROOT] => {}
        _ => return None,
    }
    let [PACKAGE, lead, rest @ ..] = after else { return None };
    // Two bits of the lead byte count the bytes of the length that follow (20.2.4); then the number of elements.
    let elements = rest.get(usize::from(lead >> 6) + 1..)?;
    let value = match elements {
        [ZERO, ..] => 0,
        [ONE, ..] => 1,
        [BYTE, value, ..] => *value,
        _ => return None,
    };
    (value <= LARGEST_TYPE).then_some(value)
}
