//! Resources: authority that no other object stands for.

use crate::{
    mm::slab::Slab,
    sync::{Counted, Header, Object, Ref},
};
use abi::{Error, Kind};
use core::mem::offset_of;

/// Authority over the console's input, power, and starting programs.
pub struct Resource {
    header: Header,
}

static SLAB: Slab<Resource> = Slab::new();

impl Counted for Resource {
    fn header(&self) -> &Header {
        &self.header
    }

    fn slab() -> &'static Slab<Self> {
        &SLAB
    }
}

impl Object for Resource {
    const KIND: Kind = Kind::Resource;
    const HEADER: usize = offset_of!(Self, header);
}

impl Resource {
    /// All the authority there is; for `init`.
    pub fn new() -> Result<Ref<Self>, Error> {
        Ref::new(Self { header: Header::new() })
    }
}
