//! Resources: authority that no other object stands for.

use crate::sync::{Header, Ref};
use abi::Error;

/// Authority over the console's input, power, and starting programs.
pub struct Resource {
    header: Header,
}

crate::object!(Resource as Resource {});

impl Resource {
    /// All the authority there is; for `init`.
    pub fn new() -> Result<Ref<Self>, Error> {
        Ref::new(Self { header: Header::new() })
    }
}
