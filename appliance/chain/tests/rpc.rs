//! The pool of endpoints against real nodes and dead ports.

mod anvil;

use std::net::TcpListener;

use alloy::{primitives::Address, providers::Provider};
use anvil::{Anvil, ME, network};
use chain::rpc::{EndpointState, Rpc, RpcError};
use url::Url;

/// An address where nobody listens.
fn dead() -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    format!("http://127.0.0.1:{port}").parse().expect("a url")
}

#[tokio::test]
async fn the_next_endpoint_answers_when_the_first_is_dead_or_elsewhere() {
    let (other, anvil) = (Anvil::start(&["--chain-id", "5"]), Anvil::start(&[]));
    let rpc = Rpc::connect(network(vec![dead(), other.url.clone(), anvil.url.clone()])).await.expect("connects");
    assert_eq!(rpc.provider().get_chain_id().await.expect("answers"), 31_337);
    let states: Vec<_> = rpc.endpoints().into_iter().map(|report| report.state).collect();
    assert!(matches!(
        states.as_slice(),
        [EndpointState::Unreachable { .. }, EndpointState::WrongChain { got: 5 }, EndpointState::Healthy]
    ));
}

#[tokio::test]
async fn an_endpoint_that_dies_is_left_for_the_next() {
    let (first, second) = (Anvil::start(&[]), Anvil::start(&["--balance", "7"]));
    let rpc = Rpc::connect(network(vec![first.url.clone(), second.url.clone()])).await.expect("connects");
    let before = rpc.provider().get_balance(ME).await.expect("answers");
    drop(first);
    let after = rpc.provider().get_balance(ME).await.expect("answers");
    assert!(before > after, "the second node answered");
}

#[tokio::test]
async fn a_rig_starts_while_nobody_answers() {
    let rpc = Rpc::connect(network(vec![dead()])).await.expect("starts degraded");
    rpc.provider().get_balance(Address::ZERO).await.expect_err("nobody answers");
    assert!(matches!(rpc.endpoints()[0].state, EndpointState::Unreachable { .. }));
}

#[tokio::test]
async fn a_network_that_is_another_chain_everywhere_is_refused() {
    let other = Anvil::start(&["--chain-id", "5"]);
    let error = Rpc::connect(network(vec![other.url.clone()])).await.expect_err("is refused");
    assert!(matches!(error, RpcError::WrongChain { want: 31_337, got: 5 }));
}

#[tokio::test]
async fn coins_for_a_contract_take_the_gas_that_it_takes() {
    let anvil = Anvil::start(&[]);
    let rpc = Rpc::connect(anvil.network()).await.expect("connects");
    let (account, wallet) = (Address::repeat_byte(0xa), Address::repeat_byte(0xb));
    // Stores a one whenever coins come: PUSH1 1, PUSH1 0, SSTORE, STOP.
    anvil.ask("anvil_setCode", serde_json::json!([wallet, "0x600160005500"])).await;
    let gas = async |to| chain::read::transfer_gas(&rpc, ME, to).await.expect("is estimated");
    assert_eq!(gas(account).await, 21_000);
    assert!(gas(wallet).await > 40_000, "what was kept for an account would not pay for it");
}
