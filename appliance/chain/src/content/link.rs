//! A link that a stranger wrote, parsed once.
//!
//! Invariant: a [`Document`] has a URL that may be asked (http or https, a host, no credentials) or a CID that the
//! configured gateways can be asked for, or both.

use url::Url;

use super::cid::Cid;

/// Longest link that is looked at, in bytes. Source: servers commonly refuse request lines above 8 KiB.
const LINK_BYTES_MAX: usize = 4096;

/// What a link says: where the document is, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    /// The host to ask first; `None` for `ipfs://`.
    pub(crate) url: Option<Url>,
    /// What the bytes must be; `None` when the link does not say.
    pub(crate) cid: Option<Cid>,
}

// === impl Document ===

impl Document {
    /// Reads a link as it stands on chain. Errors: in words, why it cannot be followed.
    pub(crate) fn parse(link: &str) -> Result<Document, &'static str> {
        if link.is_empty() {
            return Err("is empty");
        }
        if link.len() > LINK_BYTES_MAX {
            return Err("is longer than 4096 bytes");
        }
        let url = Url::parse(link).map_err(|_| "is not a URL")?;
        if url.scheme() == "ipfs" {
            // The URL parser leaves the host of an unknown scheme as it is written, and CIDs are case-sensitive.
            let cid = url.host_str().and_then(|host| host.parse().ok()).ok_or("has no CID after ipfs://")?;
            return match url.path() {
                "" | "/" => Ok(Document { url: None, cid: Some(cid) }),
                _ => Err("names a file below a CID, which cannot be checked"),
            };
        }
        check_web(&url)?;
        let cid = named_cid(&url);
        Ok(Document { url: Some(url), cid })
    }
}

/// Whether `url` may be asked at all. Errors: in words, why not.
pub(crate) fn check_web(url: &Url) -> Result<(), &'static str> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err("is neither http nor https");
    }
    if url.host().is_none() {
        return Err("has no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("carries credentials");
    }
    Ok(())
}

/// The CID that names the whole document: `…/ipfs/<cid>` or `<cid>.ipfs.<host>/`.
///
/// A file below a CID (`…/ipfs/<cid>/name`) is named by its directory, which its bytes alone cannot prove; such a link
/// is followed like any other.
pub(crate) fn named_cid(url: &Url) -> Option<Cid> {
    let parts: Vec<&str> = url.path_segments()?.filter(|part| !part.is_empty()).collect();
    if let [.., "ipfs", cid] = parts[..] {
        return cid.parse().ok();
    }
    match url.domain()?.split_once(".ipfs.") {
        Some((cid, _host)) if parts.is_empty() => cid.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V0: &str = "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o";
    const V1: &str = "bafkreifnlxaupdpanjgcokhkkkf5snq2jokf5evecs7u2gam5wvovjpuzq";

    #[test]
    fn a_link_names_its_document_by_path_by_host_or_by_scheme() {
        for (link, cid) in [
            (format!("https://gateway.example/ipfs/{V0}"), Some(V0)),
            (format!("https://gateway.example/ipfs/{V0}/?filename=a.json"), Some(V0)),
            (format!("http://127.0.0.1:1/base/ipfs/{V1}"), Some(V1)),
            (format!("https://{V1}.ipfs.gateway.example/"), Some(V1)),
            (format!("ipfs://{V0}"), Some(V0)),
            (format!("https://gateway.example/ipfs/{V0}/compose.yml"), None),
            ("https://gateway.example/ipfs/not-a-cid".to_owned(), None),
            ("https://raw.example/owner/main/compose.yml".to_owned(), None),
            ("https://raw.example/%ff%fe%00".to_owned(), None),
        ] {
            let document = Document::parse(&link).expect("a link that can be followed");
            assert_eq!(document.cid.map(|cid| cid.to_string()).as_deref(), cid, "{link}");
        }
    }

    #[test]
    fn a_link_that_cannot_be_followed_says_why() {
        for (link, why) in [
            (String::new(), "is empty"),
            ("no url".to_owned(), "is not a URL"),
            ("file:///etc/passwd".to_owned(), "is neither http nor https"),
            ("ftp://host/file".to_owned(), "is neither http nor https"),
            ("data:text/plain,x".to_owned(), "is neither http nor https"),
            ("http://owner:word@host/".to_owned(), "carries credentials"),
            ("ipfs://nothing".to_owned(), "has no CID after ipfs://"),
            (format!("ipfs://{V0}/file"), "names a file below a CID, which cannot be checked"),
            (format!("http://host/{}", "x".repeat(LINK_BYTES_MAX)), "is longer than 4096 bytes"),
        ] {
            assert_eq!(Document::parse(&link), Err(why), "{link}");
        }
    }
}
