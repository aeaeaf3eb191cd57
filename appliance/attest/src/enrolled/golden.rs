//! The formats as they were first written: files of an emulated rig, which every later version must still read.

use super::*;
use crate::certificates::Roots;
use crate::document::Document;
use crate::evidence::Evidence;
use crate::tests::soft::NOW;

const EVIDENCE: &str = include_str!("../../tests/golden/evidence.json");
const CHALLENGE: &str = include_str!("../../tests/golden/challenge.json");
const CREDENTIAL: &str = include_str!("../../tests/golden/credential.json");
const ANSWER: &str = include_str!("../../tests/golden/answer.json");
const MAKER: &str = include_str!("../../tests/golden/maker.pem");

fn unchanged<D: Document>(text: &str) -> D {
    let document = D::parse(text.as_bytes()).expect("a golden file");
    assert_eq!(*document.print(), text);
    document
}

#[test]
fn the_first_version_of_every_document_reads_writes_and_holds() {
    let evidence: Evidence = unchanged(EVIDENCE);
    let _: Credential = unchanged(CREDENTIAL);
    let mut roots = Roots::none();
    roots.add(MAKER.as_bytes()).expect("a root");
    let anchors = Anchors { roots, pinned: Vec::new() };
    let examined = Examined::of(&evidence.enrolment, &anchors, NOW, None).expect("examined");
    let enrolled = examined.activate(&unchanged(CHALLENGE), &unchanged(ANSWER)).expect("enrolled");
    let measured = enrolled.measured(&evidence.quote.expect("a quote"), &[0xa5; 32]).expect("measured");
    assert_eq!(measured.pcrs.get(7), Some(&[0; 32][..]));
}
