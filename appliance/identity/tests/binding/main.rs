//! What a key without a TPM is bound to, and what becomes of it when the machine around it changes.

mod corpus;
mod life;
mod properties;
mod rig;
mod tree;
