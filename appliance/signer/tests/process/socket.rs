//! A peer that does not keep to the protocol, and peers that should not be there.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use alloy::consensus::TxEip1559;
use alloy::primitives::Bytes;
use signer::protocol::{Answer, FRAME_BYTES_MAX};
use signer::{Client, Error};
use tokio::time::timeout;

use crate::rig::{Home, PATIENCE, receive, send};

#[tokio::test]
async fn garbage_is_answered_and_disturbs_nobody() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let mut hostile = home.dial();
    let nested = [b'['; 60_000];
    let garbage: [&[u8]; 8] =
        [b"\0", b"{", b"\"key\"", b"{\"sign\":{}}", b"{\"sign\":{\"tx\":7}}", b"\xff\xfe\xfd", b"null", &nested];
    for (nonce, json) in (0..).zip(garbage) {
        send(&mut hostile, json);
        assert!(matches!(receive(&mut hostile), Some(Answer::Malformed { .. })));
        client.sign(running.honest(nonce)).await.expect("the other peer is served");
    }
    send(&mut hostile, b"\"identity\"");
    assert!(matches!(receive(&mut hostile), Some(Answer::Identity(_))), "garbage in a frame leaves the stream in step");
}

#[tokio::test]
async fn a_frame_of_impossible_length_ends_its_connection_alone() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    for (nonce, length) in (0..).zip([0, FRAME_BYTES_MAX + 1, u32::MAX]) {
        let mut hostile = home.dial();
        hostile.write_all(&length.to_le_bytes()).expect("send");
        assert!(matches!(receive(&mut hostile), Some(Answer::Malformed { .. })));
        assert_eq!(receive(&mut hostile), None, "the stream cannot be followed further");
        client.sign(running.honest(nonce)).await.expect("the other peer is served");
    }
}

#[tokio::test]
async fn half_a_frame_ends_its_connection_in_seconds_and_delays_nobody() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let mut hostile = [home.dial(), home.dial()];
    hostile[0].write_all(&[7]).expect("a quarter of a length");
    hostile[1].write_all(b"\x0a\0\0\0\"iden").expect("half a message");
    let began = Instant::now();
    client.sign(running.honest(1)).await.expect("the other peer is served");
    assert!(began.elapsed() < Duration::from_secs(1), "and at once");
    for stream in &mut hostile {
        assert_eq!(stream.read_to_end(&mut Vec::new()).expect("the signer hangs up"), 0);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_too_long_for_a_frame_is_not_even_sent() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    let huge = TxEip1559 { input: Bytes::from(vec![0; FRAME_BYTES_MAX as usize]), ..running.attempt(1) };
    let error = client.sign(huge.into()).await.expect_err("too long");
    assert!(matches!(error, Error::Malformed { .. }) && error.is_final(), "{error:?}");
    client.sign(running.honest(1)).await.expect("the client is still sound");
}

#[tokio::test]
async fn hoarded_connections_are_bounded_and_come_back() {
    let home = Home::new();
    let running = home.start();
    let mut hoard: Vec<_> = (0..16).map(|_| home.dial()).collect();
    for stream in &mut hoard {
        send(stream, b"\"identity\"");
        assert!(matches!(receive(stream), Some(Answer::Identity(_))));
    }
    let client = Client::connect(home.socket()).await.expect("connect");
    let error = client.identity().await.expect_err("all connections are taken");
    assert!(matches!(error, Error::Unreachable { .. }) && !error.is_final(), "{error:?}");
    drop(hoard);
    let served = async { while client.sign(running.honest(1)).await.is_err() {} };
    timeout(PATIENCE, served).await.expect("the freed connections serve again");
}

#[test]
fn another_user_is_turned_away_unheard() {
    let Some(home) = Home::of_nobody() else { return println!("not tried: needs root to be somebody else") };
    // The signer runs as nobody; this test is root, which no rule exempts.
    let _running = home.start();
    let mut stream = home.dial();
    let _ = stream.write_all(b"\x0a\0\0\0\"identity\"");
    assert_eq!(receive(&mut stream), None);
    assert!(home.log().contains("peer turned away"), "{}", home.log());
}

#[test]
fn the_named_user_is_served() {
    let Some(home) = Home::of_nobody() else { return println!("not tried: needs root to be somebody else") };
    let _running = home.start_allowing(0);
    let mut stream = home.dial();
    send(&mut stream, b"\"identity\"");
    assert!(matches!(receive(&mut stream), Some(Answer::Identity(_))));
}
