//! Many view calls at one block, in as few round trips as a node allows.

use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::{BlockNumberOrTag, TransactionRequest};
use alloy::sol_types::SolCall;
use alloy::transports::TransportError;
use alloy_primitives::{Address, Bytes};

use super::{Moment, ReadError};
use crate::rpc::Rpc;

/// Calls in one JSON-RPC batch. Source: public nodes commonly refuse more than 100.
pub(super) const BATCH_CALLS_MAX: usize = 100;

/// One view call: what it is called in errors, whom it goes to, and its input.
#[derive(Clone, Debug)]
pub(super) struct Call {
    what: &'static str,
    to: Address,
    input: Bytes,
}

/// The output of one call, not decoded yet.
#[derive(Debug)]
pub(super) struct Output {
    what: &'static str,
    to: Address,
    output: Result<Bytes, TransportError>,
}

// === impl Call ===

impl Call {
    pub(super) fn new<C: SolCall>(to: Address, call: &C) -> Call {
        Call { what: C::SIGNATURE, to, input: call.abi_encode().into() }
    }
}

// === impl Output ===

impl Output {
    /// Reads the output as that of `C`.
    pub(super) fn read<C: SolCall>(self) -> Result<C::Return, ReadError> {
        debug_assert_eq!(self.what, C::SIGNATURE, "outputs are read in the order of their calls");
        let Output { what, to, output } = self;
        let output = output.map_err(|source| ReadError::NoAnswer { what, source })?;
        C::abi_decode_returns(&output).map_err(|source| ReadError::Nonsense { what, to, source })
    }
}

/// Makes `calls` at the state of block `at`. The outputs come in their order.
///
/// Errors: a whole batch was not answered. An answer that is an error belongs to its call alone.
pub(super) async fn all(rpc: &Rpc, at: Moment, calls: &[Call]) -> Result<Vec<Output>, ReadError> {
    let provider = rpc.provider();
    let mut outputs = Vec::with_capacity(calls.len());
    for some in calls.chunks(BATCH_CALLS_MAX) {
        let what = some[0].what;
        let no_answer = |source| ReadError::NoAnswer { what, source };
        let mut batch = BatchRequest::new(alloy::providers::Provider::client(&provider));
        let mut waiting = Vec::with_capacity(some.len());
        for call in some {
            let request = TransactionRequest::default().to(call.to).input(call.input.clone().into());
            let params = (request, BlockNumberOrTag::Number(at.block));
            waiting.push(batch.add_call::<_, Bytes>("eth_call", &params).map_err(no_answer)?);
        }
        batch.send().await.map_err(no_answer)?;
        for (call, output) in some.iter().zip(waiting) {
            outputs.push(Output { what: call.what, to: call.to, output: output.await });
        }
    }
    Ok(outputs)
}
