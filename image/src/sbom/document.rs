//! The SPDX document itself: written, read back and compared.
//!
//! Invariants: packages, files and relations are sorted; identifiers are derived from names, so that a file that did not
//! change has the same one in the next release.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::debian::Contents;
use super::licence::UNKNOWN;
use super::{About, Item};

const VERSION: &str = "SPDX-2.3";
const DATA_LICENCE: &str = "CC0-1.0";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
/// What we made ourselves: units, settings, generated lists.
const OURS: &str = "SPDXRef-Package-rig";
const OUR_LICENCE: &str = "Apache-2.0 OR MIT";
/// A document of ten thousand files has 6 MB.
const DOCUMENT_BYTES_MAX: usize = 64 << 20;

/// Where a document and an image differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// In the image alone.
    Unlisted(String),
    /// In the document alone.
    Missing(String),
    /// In both, with another content.
    Changed(String),
}

/// Where a file came from.
#[derive(Debug, PartialEq, Eq)]
struct Origin<'a> {
    package: String,
    /// What the build did to it.
    comment: Option<&'a str>,
}

struct Index<'a> {
    by_content: BTreeMap<[u8; 32], &'a Contents>,
    by_path: BTreeMap<&'a str, &'a Contents>,
    modules: BTreeMap<String, &'a Contents>,
}

pub(super) fn write(about: &About<'_>, contents: &[Contents], items: &[Item]) -> Vec<u8> {
    let index = Index::over(contents);
    let mut items: Vec<&Item> = items.iter().collect();
    items.sort_by(|a, b| a.path.cmp(&b.path));
    let (mut files, mut relations, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    for item in items {
        let Origin { package, comment } = index.origin(about, item);
        let id = file_id(&item.path);
        let mut file = json!({
            "SPDXID": id,
            "fileName": format!("./{}", item.path),
            "checksums": [
                {"algorithm": "SHA1", "checksumValue": hex::encode(item.sha1)},
                {"algorithm": "SHA256", "checksumValue": hex::encode(item.sha256)},
            ],
            "licenseConcluded": UNKNOWN,
            "copyrightText": UNKNOWN,
        });
        if let (Some(comment), Some(fields)) = (comment, file.as_object_mut()) {
            fields.insert("comment".to_owned(), comment.into());
        }
        files.push(file);
        relations.push(relation(&package, "CONTAINS", &id));
        used.insert(package);
    }
    let mut packages = vec![image(about), ours(about)];
    used.insert(OURS.to_owned());
    let mut texts = BTreeMap::new();
    for found in contents.iter().filter(|found| used.contains(&debian_id(found))) {
        packages.push(debian(found));
        texts.extend(found.licences.texts.iter().map(|(name, text)| (name.clone(), text.clone())));
    }
    crates(about, &mut used, &mut packages, &mut relations);
    relations.push(relation(DOCUMENT, "DESCRIBES", IMAGE));
    let parts: Vec<Value> = used.iter().map(|package| relation(IMAGE, "CONTAINS", package)).collect();
    relations.extend(parts);
    packages.sort_by_key(|package| package["SPDXID"].as_str().map(str::to_owned));
    relations.sort_by_key(Value::to_string);
    relations.dedup();
    let texts = texts.iter().map(|(name, text)| json!({"licenseId": name, "extractedText": text}));
    let mut document = json!({
        "spdxVersion": VERSION,
        "dataLicense": DATA_LICENCE,
        "SPDXID": DOCUMENT,
        "name": format!("rig-{}-{}", about.version, about.flavour),
        "creationInfo": {"created": date(about.epoch), "creators": ["Organization: rig", "Tool: rig image"]},
        "packages": packages,
        "files": files,
        "relationships": relations,
        "hasExtractedLicensingInfos": texts.collect::<Vec<_>>(),
    });
    // A namespace has to be unique and need not lead anywhere: it is the document's own digest.
    let digest = hex::encode(Sha256::digest(document.to_string()));
    document["documentNamespace"] = format!("urn:rig:sbom:{}:{}:{digest}", about.version, about.flavour).into();
    let mut bytes = serde_json::to_vec_pretty(&document).expect("a document is plain data");
    bytes.push(b'\n');
    bytes
}

// === impl Index ===

impl<'a> Index<'a> {
    /// Of several packages with one content, the first by name; the order of the lock.
    fn over(contents: &'a [Contents]) -> Index<'a> {
        let mut index = Index { by_content: BTreeMap::new(), by_path: BTreeMap::new(), modules: BTreeMap::new() };
        for package in contents {
            for (path, digest) in &package.files {
                index.by_content.entry(*digest).or_insert(package);
                index.by_path.entry(path).or_insert(package);
                if let Some(module) = module_name(path) {
                    index.modules.entry(module).or_insert(package);
                }
            }
        }
        index
    }

    fn origin(&self, about: &About<'_>, item: &Item) -> Origin<'static> {
        if let Some(program) = about.programs.get(&item.path) {
            return Origin { package: crate_id(about, program), comment: Some("built from this release's sources") };
        }
        let (_, path) = item.path.split_once('/').unwrap_or(("", &item.path));
        let at_home = self.by_path.get(path).filter(|package| package.files.get(path) == Some(&item.sha256));
        if let Some(package) = at_home.or_else(|| self.by_content.get(&item.sha256)) {
            return Origin { package: debian_id(package), comment: None };
        }
        if let Some(package) = self.by_path.get(path) {
            return Origin { package: debian_id(package), comment: Some("changed by the build") };
        }
        match module_name(path).and_then(|module| self.modules.get(&module)) {
            Some(package) => Origin { package: debian_id(package), comment: Some("unpacked or stripped by the build") },
            None => Origin { package: OURS.to_owned(), comment: None },
        }
    }
}

/// `usb_storage` of `…/usb-storage.ko.xz`: the kernel makes no difference between the two signs.
fn module_name(path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?;
    let name =
        name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz")).or_else(|| name.strip_suffix(".ko.zst"))?;
    Some(name.replace('-', "_"))
}

// === parts of the document ===

fn image(about: &About<'_>) -> Value {
    package(IMAGE, "rig-image", &format!("{}-{}", about.version, about.flavour), UNKNOWN, None)
}

fn ours(about: &About<'_>) -> Value {
    package(OURS, "rig", about.version, OUR_LICENCE, None)
}

fn debian(found: &Contents) -> Value {
    let locked = &found.package;
    let mut value =
        package(&debian_id(found), &locked.name, &locked.version, &found.licences.expression(), Some(found.url()));
    value["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": locked.sha256}]);
    value["supplier"] = "Organization: Debian".into();
    value["packageFileName"] = locked.path.clone().into();
    value
}

/// The crates of every program that is in the image, and what depends on them.
fn crates(about: &About<'_>, used: &mut BTreeSet<String>, packages: &mut Vec<Value>, relations: &mut Vec<Value>) {
    let mut seen = BTreeSet::new();
    for (program, list) in about.crates {
        let program_id = crate_id(about, program);
        if !used.contains(&program_id) {
            continue;
        }
        for found in list {
            let id = format!("SPDXRef-Crate-{}-{}", sane(&found.name), sane(&found.version));
            if id != program_id {
                relations.push(relation(&program_id, "STATIC_LINK", &id));
            }
            if seen.insert(id.clone()) {
                let url =
                    (!found.is_ours).then(|| format!("pkg:cargo/{}@{}", found.name, found.version.replace('+', "%2B")));
                let licence = found.licence.as_deref().unwrap_or(UNKNOWN);
                packages.push(package(&id, &found.name, &found.version, licence, url));
            }
            used.insert(id);
        }
    }
}

fn package(id: &str, name: &str, version: &str, licence: &str, url: Option<String>) -> Value {
    let mut value = json!({
        "SPDXID": id,
        "name": name,
        "versionInfo": version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": licence,
        "copyrightText": UNKNOWN,
    });
    if let Some(url) = url {
        value["externalRefs"] =
            json!([{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url}]);
    }
    value
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

fn debian_id(found: &Contents) -> String {
    format!("SPDXRef-Debian-{}-{}", sane(&found.package.name), sane(&found.package.architecture))
}

fn crate_id(about: &About<'_>, name: &str) -> String {
    let list = about.crates.get(name);
    let version = list.and_then(|list| list.iter().find(|found| found.name == name && found.is_ours));
    match version {
        Some(found) => format!("SPDXRef-Crate-{}-{}", sane(name), sane(&found.version)),
        None => OURS.to_owned(),
    }
}

fn file_id(path: &str) -> String {
    format!("SPDXRef-File-{}", hex::encode(&Sha256::digest(path)[..12]))
}

/// Letters, digits, dot and hyphen are all that an identifier may have.
fn sane(text: &str) -> String {
    let sign = |sign: char| if sign.is_ascii_alphanumeric() || sign == '.' { sign } else { '-' };
    text.chars().map(sign).collect()
}

/// Unix seconds as SPDX writes a time. Days to a date after the calendar's 400-year cycle, from March on.
fn date(epoch: u64) -> String {
    let (days, seconds) = (epoch / 86_400, epoch % 86_400);
    let shifted = days + 719_468;
    let (cycle, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (year, month, day) = (
        year + cycle * 400 + u64::from(month >= 10),
        if month < 10 { month + 3 } else { month - 9 },
        day - (153 * month + 2) / 5 + 1,
    );
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

// === reading ===

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "spdxVersion")]
    version: String,
    packages: Vec<Value>,
    files: Vec<ListedFile>,
}

#[derive(Deserialize)]
struct ListedFile {
    #[serde(rename = "fileName")]
    name: String,
    checksums: Vec<Checksum>,
}

#[derive(Deserialize)]
struct Checksum {
    algorithm: String,
    #[serde(rename = "checksumValue")]
    value: String,
}

fn read(sbom: &[u8]) -> Result<Document, String> {
    if sbom.len() > DOCUMENT_BYTES_MAX {
        return Err(format!("it has more than {DOCUMENT_BYTES_MAX} bytes"));
    }
    let document: Document =
        serde_json::from_slice(sbom).map_err(|error| format!("it is no SPDX document: {error}"))?;
    match document.version == VERSION {
        true => Ok(document),
        false => Err(format!("it is {}, and this program reads {VERSION}", document.version)),
    }
}

/// How much a document lists, in words. Errors: what is wrong with it.
pub fn count(sbom: &[u8]) -> Result<String, String> {
    let document = read(sbom)?;
    Ok(format!("{} files of {} packages", document.files.len(), document.packages.len()))
}

/// Where a document and the files of an image differ; nothing if it tells the whole. Errors: what is wrong with it.
pub fn compare(sbom: &[u8], items: &[Item]) -> Result<Vec<Difference>, String> {
    let document = read(sbom)?;
    let mut listed = BTreeMap::new();
    for file in &document.files {
        let digest = file.checksums.iter().find(|checksum| checksum.algorithm == "SHA256");
        let digest = digest.ok_or_else(|| format!("{} has no SHA256", file.name))?;
        let name = file.name.strip_prefix("./").unwrap_or(&file.name);
        if listed.insert(name, digest.value.as_str()).is_some() {
            return Err(format!("{name} is listed twice"));
        }
    }
    let mut differences = Vec::new();
    for item in items {
        match listed.remove(item.path.as_str()) {
            None => differences.push(Difference::Unlisted(item.path.clone())),
            Some(digest) if digest != hex::encode(item.sha256) => {
                differences.push(Difference::Changed(item.path.clone()))
            }
            Some(_) => {}
        }
    }
    differences.extend(listed.into_keys().map(|name| Difference::Missing(name.to_owned())));
    differences.sort();
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::super::{Crate, describe, item, walk, walk_archive};
    use super::*;

    #[test]
    fn a_time_is_written_as_spdx_wants_it() {
        for (epoch, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(epoch), expected);
        }
    }

    fn made_of() -> (BTreeMap<String, String>, BTreeMap<String, Vec<Crate>>) {
        let ours = Crate { name: "signer".into(), version: "0.1.0".into(), licence: Some("MIT".into()), is_ours: true };
        let other = Crate { name: "sha2".into(), version: "0.10.9".into(), licence: None, is_ours: false };
        let programs = BTreeMap::from([("root/usr/bin/rig-signer".to_owned(), "signer".to_owned())]);
        (programs, BTreeMap::from([("signer".to_owned(), vec![other, ours])]))
    }

    fn document(items: &[Item]) -> Vec<u8> {
        let (programs, crates) = made_of();
        let (version, flavour, epoch) = ("1", "generic", 0);
        let packages: &[(_, PathBuf)] = &[];
        let about = About { version, flavour, epoch, packages, programs: &programs, crates: &crates };
        describe(&about, items).expect("it needs no package")
    }

    fn items(list: &[(&str, &str)]) -> Vec<Item> {
        list.iter().map(|(path, text)| item((*path).to_owned(), &mut text.as_bytes()).expect("memory")).collect()
    }

    #[test]
    fn a_document_lists_every_file_of_its_image_and_no_other() {
        let image =
            items(&[("root/usr/bin/rig-signer", "program"), ("root/etc/hosts", "hosts"), ("esp/loader.conf", "")]);
        let sbom = document(&image);
        assert_eq!(compare(&sbom, &image), Ok(vec![]));
        let changed = items(&[("root/usr/bin/rig-signer", "other"), ("root/etc/hosts", "hosts"), ("root/new", "")]);
        let expected = vec![
            Difference::Unlisted("root/new".into()),
            Difference::Missing("esp/loader.conf".into()),
            Difference::Changed("root/usr/bin/rig-signer".into()),
        ];
        assert_eq!(compare(&sbom, &changed), Ok(expected));
    }

    #[test]
    fn a_document_does_not_depend_on_the_order_in_which_files_were_found() {
        let mut image = items(&[("root/b", "1"), ("root/a", "2"), ("root/c", "3")]);
        let first = document(&image);
        image.reverse();
        assert_eq!(first, document(&image));
    }

    #[test]
    fn a_program_of_ours_is_linked_from_its_crates() {
        let sbom = document(&items(&[("root/usr/bin/rig-signer", "program")]));
        let value: Value = serde_json::from_slice(&sbom).expect("it is JSON");
        let relations = value["relationships"].as_array().expect("a list");
        let is = |from: &str, kind: &str, to: &str| relations.contains(&relation(from, kind, to));
        assert!(is("SPDXRef-Crate-signer-0.1.0", "STATIC_LINK", "SPDXRef-Crate-sha2-0.10.9"), "{relations:?}");
        assert!(is("SPDXRef-Crate-signer-0.1.0", "CONTAINS", &file_id("root/usr/bin/rig-signer")));
        assert!(is(IMAGE, "CONTAINS", "SPDXRef-Crate-sha2-0.10.9"));
    }

    #[test]
    fn a_module_is_known_by_its_name_however_it_is_packed_and_spelt() {
        for (path, expected) in [
            ("usr/lib/modules/6/kernel/usb-storage.ko.xz", Some("usb_storage")),
            ("modules/usb_storage.ko", Some("usb_storage")),
            ("a.ko.zst", Some("a")),
            ("a.ko.gz", None),
            ("ko", None),
        ] {
            assert_eq!(module_name(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let twice = document(&items(&[("root/a", "1"), ("root/a", "1")]));
        let other = br#"{"spdxVersion": "SPDX-3.0", "packages": [], "files": []}"#;
        for (bytes, expected) in
            [(&b""[..], "no SPDX document"), (b"{}", "no SPDX document"), (other, "SPDX-3.0"), (&twice, "listed twice")]
        {
            let error = compare(bytes, &[]).expect_err("it is no document");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_tree_and_an_archive_of_it_have_the_same_files() {
        let folder = tempfile::tempdir().expect("a place for files");
        std::fs::create_dir(folder.path().join("modules")).expect("a folder");
        std::fs::write(folder.path().join("modules/a.ko"), "module").expect("a file");
        std::fs::write(folder.path().join("init"), "init").expect("a file");
        std::os::unix::fs::symlink("init", folder.path().join("link")).expect("a link");
        let entry = |name: &str, mode: u32, body: &str| {
            let mut bytes = format!("070701{:08x}{mode:08x}", 1).into_bytes();
            for field in [0, 0, 1, 0, body.len(), 0, 0, 0, 0, name.len() + 1, 0] {
                bytes.extend(format!("{field:08x}").into_bytes());
            }
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(body.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let archive = [
            entry("modules", 0o40_755, ""),
            entry("modules/a.ko", 0o100_644, "module"),
            entry("link", 0o120_777, "init"),
            entry("TRAILER!!!", 0, ""),
            vec![0; 512],
            entry("./init", 0o100_755, "init"),
        ]
        .concat();
        let found = walk_archive("initrd", &archive).expect("an archive");
        assert_eq!(found, walk("initrd", folder.path()).expect("a tree"));
        for end in [1, 50, 111, 200] {
            assert!(walk_archive("initrd", &archive[..end]).is_err(), "cut after {end} bytes");
        }
    }
}
