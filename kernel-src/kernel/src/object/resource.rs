//! Resources: authority that no other object stands for.

use crate::sync::{Header, Payer, Ref};
use abi::Error;

/// Authority over the console's input, power, and starting programs.
pub struct Resource {
    header: Header,
}

crate::object!(Resource as Resource {});

impl Resource {
    /// All the authority there is; for `init`.
    pub fn new(payer: Payer<'_>) -> Result<Ref<Self>, Error> {
        Ref::new(payer, || Self { header: Header::new() })
    }
}
