//! A replica that lags: the chain as it was some blocks ago.
//!
//! It answers from the same node, with newer blocks hidden: block tags mean its own head, newer blocks and receipts are
//! unknown, logs end where its chain ends. It passes transactions on, as replicas do.

use serde_json::{Value, json};

use super::{Shared, error_of, method_of, result_of};

/// Answers `call` as a replica that is `behind` blocks behind.
pub(super) async fn answer(shared: &Shared, call: &Value, behind: u64) -> reqwest::Result<Value> {
    let head = head(shared).await?.saturating_sub(behind);
    match method_of(call) {
        "eth_blockNumber" => Ok(result_of(call, json!(format!("{head:#x}")))),
        "eth_getTransactionReceipt" | "eth_getTransactionByHash" => hide(shared, call, "blockNumber", head).await,
        "eth_getBlockByHash" => hide(shared, call, "number", head).await,
        "eth_getBlockByNumber" => match at(call, 0, head) {
            Some(call) => shared.forward(&call).await,
            None => Ok(result_of(call, Value::Null)),
        },
        "eth_getLogs" => match logs_up_to(call, head) {
            Some(call) => shared.forward(&call).await,
            None => Ok(result_of(call, json!([]))),
        },
        "eth_call"
        | "eth_estimateGas"
        | "eth_getBalance"
        | "eth_getTransactionCount"
        | "eth_getCode"
        | "eth_feeHistory" => match at(call, 1, head) {
            Some(call) => shared.forward(&call).await,
            None => Ok(error_of(call, -32000, "header not found")),
        },
        _ => shared.forward(call).await,
    }
}

async fn head(shared: &Shared) -> reqwest::Result<u64> {
    let asked = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": [] });
    Ok(number(&shared.forward(&asked).await?["result"]).unwrap_or(0))
}

/// Forwards, and hides an answer that stands in a newer block.
async fn hide(shared: &Shared, call: &Value, field: &str, head: u64) -> reqwest::Result<Value> {
    let answer = shared.forward(call).await?;
    let is_newer = number(&answer["result"][field]).is_some_and(|block| block > head);
    Ok(if is_newer { result_of(call, Value::Null) } else { answer })
}

/// The call with its block parameter at `index` as the replica understands it; `None` for a block that it lacks.
fn at(call: &Value, index: usize, head: u64) -> Option<Value> {
    let mut call = call.clone();
    let params = call["params"].as_array_mut()?;
    if params.len() <= index {
        params.resize(index + 1, json!("latest"));
    }
    let own = own_number(&params[index], head)?;
    params[index] = json!(format!("{own:#x}"));
    Some(call)
}

/// The call for logs, cut at the replica's head; `None` if nothing is left.
fn logs_up_to(call: &Value, head: u64) -> Option<Value> {
    let mut call = call.clone();
    let filter = call["params"][0].as_object_mut()?;
    let from = filter.get("fromBlock").map_or(Some(head), |tag| own_number(tag, head))?;
    let to = filter.get("toBlock").map_or(Some(head), |tag| own_number(tag, head)).unwrap_or(head);
    filter.insert("fromBlock".to_owned(), json!(format!("{from:#x}")));
    filter.insert("toBlock".to_owned(), json!(format!("{to:#x}")));
    (from <= to).then_some(call)
}

/// A tag or a number, as a number that the replica has.
fn own_number(tag: &Value, head: u64) -> Option<u64> {
    match number(tag) {
        Some(block) => (block <= head).then_some(block),
        None if tag == "earliest" => Some(0),
        None => Some(head),
    }
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}
