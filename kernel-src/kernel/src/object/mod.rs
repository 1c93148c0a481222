//! Kernel objects and what is done to them.

mod endpoint;
mod process;
mod thread;
mod wait;

pub use endpoint::{Endpoint, reply};
pub use process::{Capability, Process, end_process, process_info, reap, spawn, spawn_requested};
pub use thread::{Queued, Start, Thread};
pub use wait::WaitList;
