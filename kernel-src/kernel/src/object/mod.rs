//! Kernel objects and what is done to them.

mod cnode;
mod donation;
mod endpoint;
mod fast;
mod notification;
mod process;
mod reply;
mod report;
mod resource;
mod thread;
mod transfer;
mod wait;

pub use cnode::{CNode, resolve};
pub use donation::{backing, charge};
pub use endpoint::{Endpoint, call_of, check_info, reply_before_receive, reply_owed, sent};
pub use fast::{carry_out, tell_of};
pub use notification::Notification;
pub use process::{Process, claim, end_process, process_info, reap, spawn, spawn_requested};
pub use reply::{Reply, may_copy};
pub use report::{set_handler, unserved};
pub use resource::Resource;
pub use thread::{FAULTS, FOREIGN, FPU, HALTED, IS_STOPPED, Queued, STEPS, SUSPENDED, Start, State, Thread};
pub use wait::{Meeting, Queues, cancel, hear, requeue, unlist};
