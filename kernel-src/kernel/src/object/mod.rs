//! Kernel objects and what is done to them.

mod cnode;
mod endpoint;
mod process;
mod resource;
mod thread;
mod wait;

pub use cnode::{CNode, resolve};
pub use endpoint::{Endpoint, reply};
pub use process::{Process, claim, end_process, process_info, reap, spawn, spawn_requested};
pub use resource::Resource;
pub use thread::{Queued, Start, Thread};
pub use wait::WaitList;
