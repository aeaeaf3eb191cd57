//! Each test has a gateway of its own, a network namespace without any way out; nothing here touches the host's.

mod internal;
mod internet;
mod lifetime;
mod world;

use super::*;

#[test]
fn a_plan_that_cannot_be_built_is_refused_by_name() {
    let internal = |services, published: &[(u16, u8, u16)]| NetworkPlan {
        policy: Policy::Internal,
        services,
        published: published.iter().map(|&(port, service, target)| Published { port, service, target }).collect(),
        number: 0,
    };
    let internet = |rate_bytes_per_s, total_bytes, resolvers: &[[u8; 4]]| NetworkPlan {
        policy: Policy::Internet(Egress {
            rate_bytes_per_s,
            total_bytes,
            resolvers: resolvers.iter().map(|octets| Ipv4Addr::from(*octets)).collect(),
        }),
        ..internal(1, &[])
    };
    let many: Vec<_> = (1..=65).map(|port| (port, 1, 80)).collect();
    let cases = [
        (internal(0, &[]), "1 to 16 services, not 0"),
        (internal(17, &[]), "1 to 16 services, not 17"),
        (NetworkPlan { number: NUMBERS, ..internal(1, &[]) }, "number 8192 is not below 8192"),
        (internal(1, &[(20_000, 1, 80)]), "port 20000 cannot be published: callbacks arrive there"),
        (internal(1, &[(0, 1, 80)]), "0 is not a port"),
        (internal(1, &[(80, 1, 0)]), "0 is not a port"),
        (internal(1, &[(80, 2, 80)]), "no such service"),
        (internal(1, &[(80, 0, 80)]), "no such service"),
        (internal(1, &[(80, 1, 80), (80, 1, 81)]), "published twice"),
        (NetworkPlan { policy: Policy::None, ..internal(1, &[(80, 1, 80)]) }, "the source has no network"),
        (internal(1, &many), "65 ports are published, of at most 64"),
        (internet(1, 1, &[]), "give at least 65536"),
        (internet(1 << 20, 0, &[]), "give a total"),
        (internet(1 << 20, 1, &[[1, 1, 1, 1]; 9]), "9 resolvers are named, of at most 8"),
        (internet(1 << 20, 1, &[[1, 1, 1, 1], [192, 168, 7, 1]]), "resolver 192.168.7.1 is on a network"),
        (internet(1 << 20, 1, &[[127, 0, 0, 53]]), "resolver 127.0.0.53 is on a network"),
    ];
    for (plan, words) in cases {
        let said = Hub::open(&plan).expect_err(words).to_string();
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    }
}

#[test]
fn a_destination_is_forbidden_to_its_last_address_and_not_beyond() {
    let forbidden = |octets: [u8; 4]| rules::is_forbidden(Ipv4Addr::from(octets));
    for octets in [
        [0, 0, 0, 0],
        [10, 255, 255, 255],
        [100, 64, 0, 0],
        [100, 127, 255, 255],
        [127, 0, 0, 1],
        [168, 63, 129, 16],
        [169, 254, 169, 254],
        [172, 31, 255, 255],
        [192, 0, 0, 192],
        [198, 19, 255, 255],
        [224, 0, 0, 1],
        [255, 255, 255, 255],
    ] {
        assert!(forbidden(octets), "{octets:?}");
    }
    for octets in [
        [1, 0, 0, 0],
        [9, 255, 255, 255],
        [11, 0, 0, 0],
        [100, 63, 255, 255],
        [100, 128, 0, 0],
        [168, 63, 129, 17],
        [172, 32, 0, 0],
        [192, 0, 1, 0],
        [198, 20, 0, 0],
        [223, 255, 255, 255],
    ] {
        assert!(!forbidden(octets), "{octets:?}");
    }
}

#[test]
fn uplinks_never_share_an_address() {
    let first = |number| NetworkPlan::uplink_addresses(number);
    assert_eq!(first(0), (Ipv4Addr::new(10, 88, 128, 1), Ipv4Addr::new(10, 88, 128, 2)));
    assert_eq!(first(1), (Ipv4Addr::new(10, 88, 128, 5), Ipv4Addr::new(10, 88, 128, 6)));
    assert_eq!(first(NUMBERS - 1).1, Ipv4Addr::new(10, 88, 255, 254));
}
