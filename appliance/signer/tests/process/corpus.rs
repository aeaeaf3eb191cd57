//! Every file of the fuzzer's corpus, through what the fuzzer calls, and through the real socket.

use std::io::{Read, Write};

use proptest::prelude::*;
use signer::Client;

use crate::rig::Home;

#[path = "../../../../tests/fuzz/bodies/signer_socket.rs"]
mod body;
#[path = "../../../../tests/fuzz/seeds.rs"]
mod seeds;

use self::seeds::seeds;

#[test]
fn the_corpus_is_read_without_harm() {
    for (_, data) in seeds("signer_socket") {
        body::run(&data);
    }
}

#[tokio::test]
async fn the_corpus_on_the_socket_disturbs_nobody() {
    let home = Home::new();
    let running = home.start();
    let client = Client::connect(home.socket()).await.expect("connect");
    for (nonce, (path, data)) in (0..).zip(seeds("signer_socket")) {
        let mut stream = home.dial();
        let _ = stream.write_all(&data);
        stream.shutdown(std::net::Shutdown::Write).expect("no more");
        let _ = stream.read_to_end(&mut Vec::new());
        client.sign(running.honest(nonce)).await.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    assert!(home.journal().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What a fuzzer begins with: a file, some of its bytes changed, and a piece of another behind it.
    #[test]
    fn edits_of_the_corpus_are_read_without_harm(
        first in any::<prop::sample::Index>(),
        second in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let files: Vec<_> = seeds("signer_socket").collect();
        let (mut data, rest) = (first.get(&files).1.clone(), &second.get(&files).1);
        for (at, byte) in edits {
            let at = at.index(data.len());
            data[at] = byte;
        }
        data.extend_from_slice(&rest[cut.index(rest.len())..]);
        body::run(&data);
    }
}
