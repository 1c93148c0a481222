//! The kernel's command line: words separated by blanks, each `key=value` or `key`.

use crate::config::{COMMAND_LINE_MAX, SLIDE_ALIGN, SLIDE_LIMIT};
use displaydoc::Display;

/// What the command line asks for; of a key that comes twice, the last counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Bytes by which the image is moved from its link address.
    pub slide: usize,
    /// Most CPUs to start.
    pub cpus: Option<usize>,
    /// Boot stages go to the log ring only.
    pub quiet: bool,
    /// Where the debug kernel pauses, and for how long, follows from this; 0: it does not pause.
    pub seed: u64,
}

/// option '{word}' refused: wanted {wanted}
///
/// A known key with a value that it cannot have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Display)]
#[ignore_extra_doc_attributes]
pub struct OptionError<'a> {
    pub word: &'a str,
    pub wanted: &'static str,
}

impl Options {
    /// Reads every known word; the others are for [`unknown`].
    pub fn parse(line: &str) -> Result<Self, OptionError<'_>> {
        let mut options = Self::default();
        for word in line.split_ascii_whitespace() {
            options.take(word)?;
        }
        Ok(options)
    }

    /// True if the word's key is known.
    fn take<'a>(&mut self, word: &'a str) -> Result<bool, OptionError<'a>> {
        let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
        let number = value.and_then(number);
        let refuse = |wanted| OptionError { word, wanted };
        match key {
            "slide" => {
                let fits = number.filter(|slide| slide.is_multiple_of(SLIDE_ALIGN) && *slide < SLIDE_LIMIT);
                self.slide =
                    fits.ok_or(refuse("slide=N, a multiple of 0x200000 (2 MiB) below 0x20000000 (512 MiB)"))?;
            }
            "cpus" => self.cpus = Some(number.filter(|cpus| *cpus > 0).ok_or(refuse("cpus=N, 1 or more"))?),
            "quiet" if value.is_some() => return Err(refuse("quiet without a value")),
            "quiet" => self.quiet = true,
            "seed" if cfg!(debug_assertions) => {
                self.seed = number.filter(|seed| *seed > 0).ok_or(refuse("seed=N, 1 or more"))? as u64;
            }
            // For `init`, which reads it itself.
            "run" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Words that no option knows.
pub fn unknown(line: &str) -> impl Iterator<Item = &str> {
    line.split_ascii_whitespace().filter(|word| Options::default().take(word) == Ok(false))
}

/// Eight bytes of the line, as programs ask for it: zeros behind its end.
pub fn word(line: &str, index: u64) -> Option<u64> {
    let at = usize::try_from(index).ok().filter(|index| *index < COMMAND_LINE_MAX / 8)? * 8;
    let mut word = [0; 8];
    word.iter_mut().zip(line.bytes().skip(at)).for_each(|(to, byte)| *to = byte);
    Some(u64::from_le_bytes(word))
}

/// Hexadecimal with `0x`, or decimal; digits only.
fn number(text: &str) -> Option<usize> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    // `from_str_radix` takes a sign too, which no option has.
    if digits.starts_with('+') {
        return None;
    }
    usize::from_str_radix(digits, radix).ok()
}
