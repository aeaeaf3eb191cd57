//! Every file of the fuzzer's corpus, through what the fuzzer calls: what once was found stays mended.

use tpm::Fault;
use tpm::answer::{Asked, understand};

#[path = "../../../../tests/fuzz/bodies/tpm.rs"]
mod body;
#[path = "../../../../tests/fuzz/seeds.rs"]
mod seeds;

use self::seeds::seeds;

#[test]
fn the_corpus_of_answers_is_read_without_harm() {
    let mut understood = [false; Asked::ALL.len()];
    for (path, data) in seeds("tpm") {
        body::run(&data);
        // A seed that is no longer taken would leave the fuzzer at the door.
        if path.extension().is_some_and(|extension| extension == "answer") {
            let kind = usize::from(data[0]);
            match understand(Asked::ALL[kind], &data[1..]) {
                Ok(()) => understood[kind] = true,
                Err(Fault::Refused { .. }) => {}
                Err(fault) => panic!("{}: {fault}", path.display()),
            }
        }
    }
    let without = Asked::ALL.iter().zip(understood).filter(|(_, is_there)| !is_there).map(|(asked, _)| asked);
    assert_eq!(without.collect::<Vec<_>>(), [&Asked::Unseal; 0], "commands without an answer in the corpus");
}
