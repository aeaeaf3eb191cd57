//! Turns contract events into facts and steps into transactions.
//!
//! It owns the word of the network: which endpoints are asked, which logs are scanned, which document stands behind a
//! link, and the one queue from which transactions leave. It never decides what to do (that is `work`), never holds a
//! key (that is `signer`), and never takes a missing answer for a changed state.
//!
//! Read first: [`rpc`] (endpoints), [`watch`] (hints), [`read`] (truth), [`outbox`] (the only writer), [`content`]
//! (documents behind links).
#![forbid(unsafe_code)]

pub mod abi;
pub mod content;
pub mod outbox;
pub mod read;
pub mod rpc;
pub mod settings;
pub mod watch;
