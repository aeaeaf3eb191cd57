use super::*;
use crate::flash::form::{country, wifi_password};

const OWNER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

const TEXT: &str = "\
# Who is paid.
[owner]
address = \"\" # 0x and 40 digits
# name = \"attic\"

# [wifi]
# network = \"x\"

[network]
chain_id = 1
rpc_urls = [\"http://127.0.0.1:1\"] # more than one is better
confirmations = 3

[network.contracts]
nexus = \"0x2b0cC6058313801D5feb184a539e3a0C5A87a6a1\"

[work]
max_runs = 4
";

/// What every stick comes with.
const SHIPPED: &str = include_str!("../../../../image/release/stick/rig.toml");

fn hidden(text: &str) -> Hidden {
    wifi_password(text.as_bytes()).expect("a password")
}

fn wishes() -> Wishes {
    Wishes {
        owner: Some(OWNER.parse().expect("an address")),
        name: Some("attic".to_owned()),
        wifi: Some(WifiWish {
            network: "Up \"stairs\"".to_owned(),
            password: Some(hidden("12345678")),
            is_hidden: true,
        }),
        country: Some("DE".to_owned()),
        network: Some(crate::network::written("testnet").expect("built in")),
        join_token: Some(Hidden(Zeroizing::new("token".to_owned()))),
        set: vec![Assignment::parse("work.max_runs=8").expect("it is one")],
    }
}

#[test]
fn wishes_are_laid_over_a_text_whose_comments_and_order_stay() {
    let text = wishes().laid_over(TEXT).expect("it is TOML");
    let expected = "\
# Who is paid.
[owner]
address = \"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\" # 0x and 40 digits
# name = \"attic\"
";
    for part in
        ["# Who is paid.\n", "# 0x and 40 digits\n", "# more than one is better\n", "# [wifi]\n", "max_runs = 8\n"]
    {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(text.starts_with(expected.split('#').next().expect("a part")) && !text.contains("confirmations"), "{text}");
    let checked = checked(text).expect("it is right");
    assert_eq!(checked.owner.map(|owner| owner.to_string()).as_deref(), Some(OWNER));
    assert_eq!(checked.network.map(|network| network.network.chain_id), Some(200_820_172_034));
    // Once more changes nothing.
    assert_eq!(wishes().laid_over(&checked.text).expect("it is TOML"), *checked.text);
    assert_eq!(Wishes::default().laid_over(TEXT).expect("it is TOML"), TEXT);
    assert!(Wishes::default().is_empty() && !wishes().is_empty());
}

#[test]
fn the_shipped_settings_take_every_wish_and_keep_their_comments() {
    checked(SHIPPED.to_owned()).expect("the template is right");
    let text = wishes().laid_over(SHIPPED).expect("it is TOML");
    let checked = checked(text).expect("it is right");
    assert!(checked.owner.is_some());
    let comments =
        |text: &str| text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(comments(&checked.text), comments(SHIPPED));
}

#[test]
fn line_ends_stay_those_of_the_text() {
    let windows = TEXT.replace('\n', "\r\n");
    let text = wishes().laid_over(&windows).expect("it is TOML");
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
    assert_eq!(text.replace("\r\n", "\n"), wishes().laid_over(TEXT).expect("it is TOML"));
}

#[test]
fn another_wireless_network_takes_nothing_over_from_the_one_before() {
    let before = wishes().laid_over(TEXT).expect("it is TOML");
    let open = WifiWish { network: "cafe".to_owned(), password: None, is_hidden: false };
    let text = Wishes { wifi: Some(open), ..Wishes::default() }.laid_over(&before).expect("it is TOML");
    let wifi: toml::Table = text.parse().expect("it is TOML");
    let wifi = wifi["wifi"].as_table().expect("a table");
    let mut keys: Vec<_> = wifi.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["country", "network", "open"]);
    checked(text).expect("it is right");
}

#[test]
fn a_text_that_a_rig_would_refuse_is_refused_here_with_its_line() {
    let check = |text: &str, expected: &str| {
        let words = checked(text.to_owned()).map(drop).expect_err(text).to_string();
        assert!(words.contains(expected), "{text}: {words}");
    };
    check("[owner]\nadress = \"\"\n", "line 2: unknown key `adress`, did you mean `address`?");
    check("[ovner]\n", "unknown key `ovner`, did you mean `owner`?");
    check("[owner\n", "line 1");
    check("[owner]\naddress = 1\n", "line 2");
    check("[owner]\naddress = \"0x70997970C51812dc3A010C7d01b50e0d17dc79c8\"\n", "wrong checksum");
    check("[owner]\naddress = \"0x7099\"\n", "40 hexadecimal digits");
    check("[owner]\nname = \"my rig\"\n", "letters, digits and hyphens");
    check("[wifi]\nnetwork = \"a\"\n", "missing field `country`");
    check("[wifi]\nnetwork = \"a\"\ncountry = \"de\"\n", "two capital letters");
    check("[wifi]\nnetwork = \"a\"\ncountry = \"DE\"\npassword = \"short\"\n", "8 to 63");
    check(
        "[wifi]\nnetwork = \"a\"\ncountry = \"DE\"\npassword = \"12345678\"\nopen = true\n",
        "is open and has a password",
    );
    check("[ethernet]\naddress = \"192.168.1.20\"\n", "192.168.1.20/24");
    check("[network]\nchain = 1\n", "unknown key `chain`, did you mean `chain_id`?");
    check("[key]\ntier = \"Z\"\n", "line 2");
    let network = crate::network::written("mainnet").expect("built in");
    check(&network.replace("0x2b0cC605", "0x2B0cC605"), "wrong checksum");
    for right in
        ["", "[owner]\n", "[owner]\naddress = \" \"\n", "[work]\nwhatever = 1\n", "[[source]]\nx = 1\n", &network]
    {
        checked(right.to_owned()).expect(right);
    }
}

#[test]
fn what_is_shown_holds_no_secret() {
    let text = wishes().laid_over(TEXT).expect("it is TOML");
    let lines = shown(&text).expect("it is TOML");
    let all = format!("{lines:?}");
    assert!(!all.contains("12345678") && !all.contains("\"token\""), "{all}");
    let of = |key: &str| lines.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str());
    assert_eq!(of("wifi.password"), Some("(set, not shown)"));
    assert_eq!(of("fleet.join_token"), Some("(set, not shown)"));
    assert_eq!(of("work.max_runs"), Some("8"));
    assert_eq!(of("owner.name"), Some("\"attic\""));
    assert!(!format!("{:?}", wishes()).contains("12345678"));
    let sources = shown("[[source]]\naddress = \"a\"\nallow = [\"b\"]\n").expect("it is TOML");
    assert_eq!(sources[1], ("source[0].allow".to_owned(), "[\"b\"]".to_owned()));
}

#[test]
fn single_values_are_checked_where_they_are_typed() {
    for good in ["a", "attic", "rig-1", &"a".repeat(32)] {
        assert!(rig_name(good).is_ok(), "{good}");
    }
    for bad in ["", "-a", "a-", "my rig", "<b>", "rig.local", "\u{e4}", &"a".repeat(33)] {
        assert!(rig_name(bad).is_err(), "{bad}");
    }
    for good in ["12345678", &"x".repeat(63), &"0aF9".repeat(16)] {
        assert!(wifi_password(good.as_bytes()).is_ok(), "{good}");
    }
    for bad in ["", "1234567", &"x".repeat(64), "p\u{e4}ssword1", "with\ttab1"] {
        let words = wifi_password(bad.as_bytes()).map(drop).expect_err(bad);
        assert!(bad.is_empty() || !words.contains(bad), "{words}");
    }
    assert_eq!(country("de"), Ok("DE".to_owned()));
    for bad in ["", "D", "DEU", "1A"] {
        assert!(country(bad).is_err(), "{bad}");
    }
    for good in ["work.max_runs=8", "lan.announce=false", "owner.name=attic", "work.sources=[\"0x1\"]", "a.b.c= x = y"]
    {
        assert!(Assignment::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "work", "max_runs=8", "work.=8", ".a=8", "a b.c=1", "wifi.password=12345678", "fleet.join_token=a"]
    {
        assert!(Assignment::parse(bad).is_err(), "{bad}");
    }
}
