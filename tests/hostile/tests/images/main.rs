//! Images that strangers made: what their layers write, hold, unpack to, and claim to be.
//!
//! Each goes through the real runner. The verdict is taken from the host: a directory beside the state directory and
//! this host's `/etc` are as they were, nothing half made is left, what a jail sees of the image is looked at through
//! its `/proc/PID/root`, and another source still runs.

mod bombs;
mod digests;
mod entries;
mod paths;
