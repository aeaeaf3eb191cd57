//! Documents behind links, against real servers on the loopback interface.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Multipart, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use chain::content::cid::cid_of;
use chain::content::{Content, Fault, FetchError, Gateways, PinError};
use url::Url;

const DOCUMENT: &[u8] = b"{\"function_name\":\"add\",\"data\":{\"a\":1,\"b\":2}}";
const LIMIT: u64 = 1024;

async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A host that answers every `GET` in this one way.
async fn host(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> SocketAddr {
    serve(Router::new().fallback(get(move || std::future::ready(answer())))).await
}

async fn honest() -> SocketAddr {
    host(|| DOCUMENT.into_response()).await
}

fn gateways() -> Gateways {
    let mut gateways = Gateways::new("http://127.0.0.1:9/file/create".parse().unwrap());
    gateways.allow_private = true;
    gateways
}

fn content() -> Content {
    Content::new(gateways()).unwrap()
}

fn content_behind(hosts: &[SocketAddr]) -> Content {
    let urls = hosts.iter().map(|host| format!("http://{host}/ipfs/").parse().unwrap());
    Content::new(Gateways { gateways: urls.collect(), ..gateways() }).unwrap()
}

fn named(host: SocketAddr) -> String {
    format!("http://{host}/ipfs/{}", cid_of(DOCUMENT))
}

/// What the first host that was asked did wrong.
fn first_fault(error: FetchError) -> Fault {
    match error {
        FetchError::NotServed { mut tries, .. } => tries.remove(0).fault,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_honest_host_is_believed() {
    let host = honest().await;
    assert_eq!(content().fetch(&named(host), LIMIT).await.unwrap(), DOCUMENT);
    assert_eq!(content().fetch(&format!("http://{host}/plain.json"), LIMIT).await.unwrap(), DOCUMENT);
}

#[tokio::test]
async fn a_lying_host_is_named_with_both_cids_and_the_next_gateway_is_asked() {
    let liar = host(|| "something else".into_response()).await;
    let error = content().fetch(&named(liar), LIMIT).await.unwrap_err();
    assert!(!error.is_final());
    let words = error.to_string();
    assert!(words.contains(&cid_of(DOCUMENT).to_string()), "{words}");
    assert!(words.contains(&cid_of(b"something else").to_string()), "{words}");

    let content = content_behind(&[liar, honest().await]);
    assert_eq!(content.fetch(&named(liar), LIMIT).await.unwrap(), DOCUMENT);
}

#[tokio::test]
async fn a_document_without_a_host_comes_from_the_gateways() {
    let link = format!("ipfs://{}", cid_of(DOCUMENT));
    assert_eq!(content_behind(&[honest().await]).fetch(&link, LIMIT).await.unwrap(), DOCUMENT);
    assert!(content().fetch(&link, LIMIT).await.unwrap_err().is_final());
}

#[tokio::test]
async fn every_gateway_that_failed_is_in_the_error() {
    let missing = host(|| StatusCode::NOT_FOUND.into_response()).await;
    let broken = host(|| StatusCode::BAD_GATEWAY.into_response()).await;
    let error = content_behind(&[broken]).fetch(&named(missing), LIMIT).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains("404") && words.contains("502"), "{words}");
    assert!(!error.is_final());
}

#[tokio::test]
async fn only_200_is_a_document() {
    for status in [StatusCode::NO_CONTENT, StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED, StatusCode::FORBIDDEN]
    {
        let host = host(move || status.into_response()).await;
        let error = content().fetch(&format!("http://{host}/"), LIMIT).await.unwrap_err();
        assert!(matches!(first_fault(error), Fault::Status(got) if got == status), "{status}");
    }
}

#[tokio::test]
async fn a_document_is_refused_at_the_first_byte_over_its_limit() {
    let announced = host(|| vec![0u8; 1025].into_response()).await;
    let endless = host(|| {
        let zeros = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[0; 512])));
        Body::from_stream(zeros).into_response()
    })
    .await;
    let exact = host(|| vec![0u8; 1024].into_response()).await;
    for host in [announced, endless] {
        let error = content().fetch(&format!("http://{host}/"), LIMIT).await.unwrap_err();
        assert!(error.is_final());
        assert!(matches!(first_fault(error), Fault::TooBig { limit_bytes: LIMIT }));
    }
    assert_eq!(content().fetch(&format!("http://{exact}/"), LIMIT).await.unwrap().len(), 1024);
}

#[tokio::test]
async fn a_body_that_stalls_or_trickles_is_given_up() {
    let stalled =
        host(|| Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()).into_response()).await;
    let content = Content::new(Gateways { idle_timeout_ms: 50, ..gateways() }).unwrap();
    let error = content.fetch(&format!("http://{stalled}/"), LIMIT).await.unwrap_err();
    assert!(matches!(first_fault(error), Fault::Broken(_)));

    let trickle = host(|| {
        let drops = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        Body::from_stream(drops).into_response()
    })
    .await;
    let content = Content::new(Gateways { total_timeout_ms: 100, ..gateways() }).unwrap();
    let error = content.fetch(&format!("http://{trickle}/"), LIMIT).await.unwrap_err();
    assert!(matches!(first_fault(error), Fault::TooSlow { limit_ms: 100 }));
}

#[tokio::test]
async fn three_redirects_are_followed_and_a_loop_is_not() {
    let target = honest().await;
    let chain = Router::new()
        .route("/1", get(|| async { Redirect::temporary("/2") }))
        .route("/2", get(|| async { Redirect::permanent("/3") }))
        .route("/3", get(move || async move { Redirect::to(&named(target)) }))
        .route("/0", get(|| async { Redirect::to("/1") }))
        .route("/loop", get(|| async { Redirect::to("/loop") }));
    let host = serve(chain).await;
    assert_eq!(content().fetch(&format!("http://{host}/1"), LIMIT).await.unwrap(), DOCUMENT);
    for path in ["0", "loop"] {
        let error = content().fetch(&format!("http://{host}/{path}"), LIMIT).await.unwrap_err();
        assert!(matches!(first_fault(error), Fault::TooManyRedirects), "{path}");
    }
}

#[tokio::test]
async fn a_redirect_to_what_is_not_the_web_is_refused() {
    for to in ["file:///etc/passwd", "http://owner:word@host/", "http://", ""] {
        let host = host(move || (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()).await;
        let error = content().fetch(&format!("http://{host}/"), LIMIT).await.unwrap_err();
        let fault = first_fault(error);
        // An empty target is the same place again, which is a loop.
        assert!(matches!(fault, Fault::BadRedirect { .. } | Fault::TooManyRedirects), "{to:?}: {fault}");
    }
}

#[tokio::test]
async fn a_strangers_link_does_not_lead_into_a_private_network() {
    let host = honest().await;
    let content = Content::new(Gateways { allow_private: false, ..gateways() }).unwrap();
    for name in [
        format!("{host}"),
        format!("localhost:{}", host.port()),
        format!("[::ffff:127.0.0.1]:{}", host.port()),
        format!("0.0.0.0:{}", host.port()),
    ] {
        let error = content.fetch(&format!("http://{name}/plain.json"), LIMIT).await.unwrap_err();
        assert!(error.is_final(), "{name}");
        assert!(matches!(first_fault(error), Fault::Private(_)), "{name}");
    }
}

#[tokio::test]
async fn a_gateway_of_the_owner_may_be_private_but_not_what_it_redirects_to() {
    let private = Gateways { allow_private: false, ..gateways() };
    let gateway = honest().await;
    let ours = Gateways { gateways: vec![format!("http://{gateway}").parse().unwrap()], ..private.clone() };
    assert_eq!(Content::new(ours).unwrap().fetch(&named(gateway), LIMIT).await.unwrap(), DOCUMENT);

    let turncoat = host(move || Redirect::to(&named(gateway)).into_response()).await;
    let ours = Gateways { gateways: vec![format!("http://{turncoat}").parse().unwrap()], ..private };
    let error = Content::new(ours).unwrap().fetch(&named(turncoat), LIMIT).await.unwrap_err();
    assert!(matches!(first_fault(error), Fault::Private(_)));
}

#[tokio::test]
async fn a_host_that_is_away_is_passing_weather() {
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let error = content().fetch(&named(gone), LIMIT).await.unwrap_err();
    assert!(!error.is_final());
    assert!(matches!(first_fault(error), Fault::Broken(_)));
    assert_eq!(content_behind(&[honest().await]).fetch(&named(gone), LIMIT).await.unwrap(), DOCUMENT);
}

#[tokio::test]
async fn a_path_that_is_not_utf_8_is_just_a_path() {
    let host = honest().await;
    assert_eq!(content().fetch(&format!("http://{host}/%ff%fe?%00"), LIMIT).await.unwrap(), DOCUMENT);
}

#[tokio::test]
async fn a_file_has_its_name_only_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input");
    let liar = host(|| vec![7u8; 4096].into_response()).await;
    let error = content().fetch_to(&named(liar), &file, 4096).await.unwrap_err();
    assert!(matches!(first_fault(error), Fault::OtherContent(_)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");

    // The liar's longer bytes must not show through the honest ones.
    let bytes = content_behind(&[honest().await]).fetch_to(&named(liar), &file, 4096).await.unwrap();
    assert_eq!(bytes, DOCUMENT.len() as u64);
    assert_eq!(std::fs::read(&file).unwrap(), DOCUMENT);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_disk_that_refuses_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing").join("input");
    let error = content().fetch_to(&named(honest().await), &file, LIMIT).await.unwrap_err();
    assert!(matches!(error, FetchError::Storage { ref path, .. } if *path == file), "{error}");
}

// === Publishing ===

type Parts = Arc<Mutex<Vec<(String, String, String, Bytes)>>>;

/// A pin API that keeps what it is sent and answers in this one way.
async fn pin_api(status: StatusCode, answer: String) -> (Content, Parts) {
    let parts = Parts::default();
    let take = async move |State(parts): State<Parts>, mut form: Multipart| {
        while let Some(part) = form.next_field().await.unwrap() {
            let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
            let (name, file, kind) = (text(part.name()), text(part.file_name()), text(part.content_type()));
            let bytes = part.bytes().await.unwrap();
            parts.lock().unwrap().push((name, file, kind, bytes));
        }
        (status, answer.clone())
    };
    let address = serve(Router::new().route("/file/create", post(take)).with_state(parts.clone())).await;
    let publish: Url = format!("http://{address}/file/create").parse().unwrap();
    (Content::new(Gateways { publish, ..gateways() }).unwrap(), parts)
}

fn link(text: &str) -> String {
    serde_json::to_string(&HashMap::from([("link", text)])).unwrap()
}

#[tokio::test]
async fn a_document_is_sent_as_one_part_named_file() {
    let url = format!("https://cipfs.example/ipfs/{}", cid_of(DOCUMENT));
    for status in [StatusCode::OK, StatusCode::CREATED] {
        let (content, parts) = pin_api(status, link(&url)).await;
        let pinned = content.pin("response.json", "application/json", DOCUMENT.to_vec()).await.unwrap();
        assert_eq!((pinned.url.as_str(), pinned.cid, pinned.bytes), (&*url, cid_of(DOCUMENT), DOCUMENT.len() as u64));
        let parts = parts.lock().unwrap();
        let expected = ("file".into(), "response.json".into(), "application/json".into(), Bytes::from_static(DOCUMENT));
        assert_eq!(*parts, [expected]);
    }
}

#[tokio::test]
async fn a_file_is_streamed_and_its_name_computed_on_the_way() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes = vec![42u8; 700_000];
    std::fs::write(file.path(), &bytes).unwrap();
    let (content, parts) =
        pin_api(StatusCode::CREATED, link(&format!("https://c.example/ipfs/{}", cid_of(&bytes)))).await;
    let pinned = content.pin("big.bin", "application/octet-stream", file.path().to_owned()).await.unwrap();
    assert_eq!(pinned.cid, cid_of(&bytes));
    assert_eq!(parts.lock().unwrap()[0].3, bytes);
}

#[tokio::test]
async fn a_link_without_a_cid_is_taken_as_it_is() {
    let (content, _) = pin_api(StatusCode::OK, link("https://files.example/42")).await;
    assert_eq!(content.pin("a", "text/plain", DOCUMENT.to_vec()).await.unwrap().cid, cid_of(DOCUMENT));
}

#[tokio::test]
async fn a_refusal_is_final_and_trouble_is_not() {
    for (status, is_final) in [(400, true), (413, true), (408, false), (429, false), (500, false), (503, false)] {
        let (content, _) = pin_api(StatusCode::from_u16(status).unwrap(), "no room here".to_owned()).await;
        let error = content.pin("a", "text/plain", DOCUMENT.to_vec()).await.unwrap_err();
        assert_eq!(error.is_final(), is_final, "{status}");
        assert!(error.to_string().contains("no room here"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_one_is_tried_again() {
    let not_http = link("ftp://files.example/42");
    for answer in ["", "<html>", "{}", "{\"link\":5}", "{\"link\":\"not a url\"}", &not_http, &"x".repeat(200_000)] {
        let (content, _) = pin_api(StatusCode::CREATED, answer.to_owned()).await;
        let error = content.pin("a", "text/plain", DOCUMENT.to_vec()).await.unwrap_err();
        assert!(matches!(error, PinError::BadAnswer { .. }) && !error.is_final(), "{error}");
        assert!(error.to_string().len() < 1000);
    }
}

#[tokio::test]
async fn a_link_to_other_bytes_is_refused_with_both_cids() {
    let other = cid_of(b"other");
    let (content, _) = pin_api(StatusCode::CREATED, link(&format!("https://c.example/ipfs/{other}"))).await;
    let error = content.pin("a", "text/plain", DOCUMENT.to_vec()).await.unwrap_err();
    assert!(matches!(error, PinError::OtherContent(_)));
    let words = error.to_string();
    assert!(words.contains(&other.to_string()) && words.contains(&cid_of(DOCUMENT).to_string()), "{words}");
}

#[tokio::test]
async fn a_pin_service_that_is_away_or_silent_is_passing_weather() {
    let error = content().pin("a", "text/plain", DOCUMENT.to_vec()).await.unwrap_err();
    assert!(matches!(error, PinError::Unreachable { .. }) && !error.is_final(), "{error}");

    let silent = serve(Router::new().fallback(post(std::future::pending::<()>))).await;
    let publish = format!("http://{silent}/file/create").parse().unwrap();
    let content = Content::new(Gateways { publish, total_timeout_ms: 50, ..gateways() }).unwrap();
    let error = content.pin("a", "text/plain", DOCUMENT.to_vec()).await.unwrap_err();
    assert!(matches!(error, PinError::TooSlow { .. }) && !error.is_final(), "{error}");
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let error = content().pin("a", "text/plain", missing.clone()).await.unwrap_err();
    assert!(matches!(error, PinError::Unreadable { ref path, .. } if *path == missing), "{error}");
}
