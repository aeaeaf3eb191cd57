//! Everything that is refused, with the words that its owner reads.

use super::parse;

/// Inputs and messages of a table.
fn cases(table: &str) -> Vec<(&str, &str)> {
    let blocks = table.split("\n\n").filter(|block| !block.starts_with('#'));
    blocks.map(|block| block.split_once("\n=> ").expect("an input and a message")).collect()
}

#[test]
fn each_key_that_is_not_run_is_refused_in_words_that_name_it() {
    let cases = cases(include_str!("refused-keys.txt"));
    assert!(cases.len() >= 120, "{} cases", cases.len());
    for (line, message) in cases {
        let image = if line.starts_with("image:") { "" } else { "image: i\n    " };
        let file = format!("services:\n  a:\n    {image}{line}\nvolumes:\n  v:\n");
        let said = parse(&file).map(|_| ()).expect_err(line).to_string();
        assert_eq!(said, message.trim_end(), "{line}");
    }
}

#[test]
fn each_file_that_is_not_run_is_refused_in_words_that_name_the_place() {
    for (file, message) in cases(include_str!("refused-files.txt")) {
        assert_eq!(parse(file).map(|_| ()).expect_err(file).to_string(), message.trim_end(), "{file}");
    }
}

#[test]
fn what_is_longer_than_any_source_needs_is_refused_with_its_bound() {
    let many = |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<String>();
    let service = |count, one: &dyn Fn(usize) -> String| format!("services: {{a: {{image: i, {}}}}}", many(count, one));
    for (file, message) in [
        (
            format!("services: {{{}}}", many(17, &|n| format!("s{n}: {{image: i}},"))),
            "the compose file has 17 services, this rig runs 1 to 16",
        ),
        (
            format!("services: {{{}}}", many(65, &|n| format!("s{n}: {{image: i}},"))),
            "`services` has 65 entries, at most 64 are run",
        ),
        (
            format!("services: {{a: {{image: i}}}}\nvolumes: {{{}}}", many(17, &|n| format!("v{n}: ,"))),
            "`volumes` has 17 entries, at most 16 are run",
        ),
        (
            service(1, &|_| format!("volumes: [{}]", many(17, &|n| format!("/x{n},")))),
            "`services.a.volumes[16]` has 17 entries, at most 16 are run",
        ),
        (
            service(1, &|_| format!("volumes: [{}]", many(33, &|n| format!("/x{n},")))),
            "`services.a.volumes` has 33 entries, at most 32 are run",
        ),
        (
            service(1, &|_| format!("ports: [{}]", many(33, &|n| format!("'{}:1',", n + 100)))),
            "`services.a.ports` has 33 entries, at most 32 are run",
        ),
        (
            format!(
                "services: {{{}}}",
                many(2, &|s| format!(
                    "s{s}: {{image: i, ports: [{}]}},",
                    many(20, &|n| format!("'{}:1',", 100 * s + n + 1))
                ))
            ),
            "`services.s1.ports[12]` has 33 entries, at most 32 are run",
        ),
        (
            service(1, &|_| format!("environment: {{{}}}", many(257, &|n| format!("K{n}: v,")))),
            "`services.a.environment` has 257 entries, at most 256 are run",
        ),
        (
            service(1, &|_| format!("environment: {{{}}}", many(200, &|n| format!("K{n}: {},", "v".repeat(200))))),
            "`services.a.environment` has more than 32768 bytes of text",
        ),
        (
            service(1, &|_| format!("environment: {{K: '{}'}}", "${CALLBACK_URL}".repeat(1000))),
            "`services.a.environment.K` has more than 16384 bytes of text",
        ),
        (
            service(1, &|_| format!("command: [{}]", many(257, &|_| "w,".to_owned()))),
            "`services.a.command` has 257 entries, at most 256 are run",
        ),
        (
            service(1, &|_| format!("command: '{}'", many(257, &|_| "w ".to_owned()))),
            "`services.a.command` has 257 entries, at most 256 are run",
        ),
        (
            service(1, &|_| format!("command: [{}]", many(20, &|_| format!("{},", "w".repeat(1000))))),
            "`services.a.command` has more than 16384 bytes of text",
        ),
        (
            service(1, &|_| format!("image: {}", "i".repeat(17_000)).replace("image", "user")),
            "`services.a.user` has more than 16384 bytes of text",
        ),
        (
            format!("services: {{{}: {{image: i}}}}", "s".repeat(64)),
            &format!("`{}` is no name for a service", "s".repeat(64)),
        ),
        (
            format!("services: {{a: {{image: i}}}} # {}", "x".repeat(262_144)),
            "the compose file has 262172 bytes, at most 262144 are read",
        ),
    ] {
        let said = parse(&file).map(|_| ()).expect_err(message).to_string();
        assert_eq!(said, message, "{file:.200}");
    }
}
