//! What the owner of GPUs asks of the real runner: figures of what they do, and settings that hold while it runs. Only
//! the driver is not there.

mod bench;
mod settings;
