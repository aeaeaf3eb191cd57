use super::*;

fn value(kind: Kind, raw: &str) -> Result<String, Why> {
    Field::parse(kind, raw).map(|field| field.value().to_owned())
}

#[test]
fn a_placeholder_is_no_field() {
    use Kind::{BoardSerial, Disk, Gpu, Nic, ProductUuid};
    let placeholders: &[(Kind, &[&str])] = &[
        (
            BoardSerial,
            &[
                "",
                " ",
                "\n",
                "\0\0",
                ".",
                "-",
                "N/A",
                "n/a",
                "None",
                "NONE",
                "Unknown",
                "Empty",
                "Invalid",
                "OEM",
                "TBD",
                "Default string",
                "default  string",
                "To be filled by O.E.M.",
                "To Be Filled By O.E.M.",
                "TO BE FILLED BY O.E.M. ",
                "To Be Filled By O.E.M. by",
                "Not Specified",
                "Not Applicable",
                "Not Available",
                "System Serial Number",
                "SystemSerialNumb",
                "Chassis Serial Number",
                "Base Board Serial Number",
                "Serial Number",
                "Sys. Serial Number",
                "SerNo",
                "xxxxxxxxxxx",
                "XxXxXx",
                "........",
                "0",
                "00000000",
                "0000000000000000",
                "FFFFFFFF",
                "ffffffffffff",
                "0F0F0F0F",
                "11111111",
                "0123456789",
                "1234567890",
                "123456789",
                "0123456789ABCDEF",
                "01234567890123456789AB",
                "ABCDEFGH",
                "12345678",
                "MB-1234567890",
                "BSN12345678901234567",
                "AA000000000000000001",
            ],
        ),
        (Disk, &["QM00001", "QM00013", "0000000000000000", "0123456789AB", "                    "]),
        (
            ProductUuid,
            &[
                "",
                "00000000-0000-0000-0000-000000000000",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
                "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
                "fefefefe-fefe-fefe-fefe-fefefefefefe",
                "11111111-1111-1111-1111-111111111111",
                "03000200-0400-0500-0006-000700080009",
                "03000200-0400-0500-0006-000700080009\n",
                "00020003-0004-0005-0006-000700080009",
                "12345678-1234-5678-90AB-CDDEEFAABBCC",
                "00112233-4455-6677-8899-AABBCCDDEEFF",
                "03020100-0504-0706-0809-0A0B0C0D0E0F",
                "4C4C4544-0000-2010-8020-80C04F202020",
                "11111111-2222-3333-4444-555555555555",
                "00000000-0000-0000-0000-3c7c3f1a9e01",
                "12341234-1234-1234-1234-123412341234",
            ],
        ),
        (Gpu, &["GPU-????????-????-????-????-????????????", "GPU-00000000-0000-0000-0000-000000000000"]),
        (
            Nic,
            &[
                "00:00:00:00:00:00",
                "ff:ff:ff:ff:ff:ff",
                "88:88:88:88:88:88",
                "3c:7c:3f:00:00:00",
                "3c:7c:3f:ff:ff:ff",
                "00:11:22:33:44:55",
            ],
        ),
    ];
    for (kind, raws) in placeholders {
        for raw in *raws {
            let found = value(*kind, raw);
            assert!(matches!(found, Err(Why::Placeholder | Why::TooShort)), "{kind} {raw:?}: {found:?}");
        }
    }
}

#[test]
fn what_is_no_value_of_its_kind_is_refused_with_the_reason() {
    use Kind::{BoardSerial, Disk, Gpu, Nic, ProductUuid};
    let long = "A1B2C3D4E5".repeat(13);
    let refusals: &[(Kind, &str, Why)] = &[
        (BoardSerial, "A1B2", Why::TooShort),
        (BoardSerial, "/A1/B2/", Why::TooShort),
        (BoardSerial, &long, Why::TooLong),
        (Disk, &long, Why::TooLong),
        (BoardSerial, "ABC\u{7}D1234", Why::Malformed),
        (BoardSerial, "Sérial12345", Why::Malformed),
        (ProductUuid, "4c4c4544-004d-3910-8054-b7c04f5a4d3", Why::Malformed),
        (ProductUuid, "4c4c4544-004d-3910-8054-b7c04f5a4d32a", Why::Malformed),
        (ProductUuid, "4c4c4544x004d-3910-8054-b7c04f5a4d32", Why::Malformed),
        (ProductUuid, "4c4c4544-004d-3910-8054-b7c04f5a4dzz", Why::Malformed),
        (Gpu, "5a1e0d3c-77b2-4f19-8c4d-0b179e0041f7", Why::Malformed),
        (Gpu, "MIG-5a1e0d3c-77b2-4f19-8c4d-0b179e0041f7", Why::Malformed),
        (Nic, "", Why::Malformed),
        (Nic, "3c:7c:3f:1a:9e", Why::Malformed),
        (Nic, "3c:7c:3f:1a:9e:01:02", Why::Malformed),
        (Nic, "3c:7c:3f:1a:9e:+1", Why::Malformed),
        (Nic, "3c:7c:3f:1a:9e:é", Why::Malformed),
        (Nic, "52:54:00:12:34:56", Why::NotPermanent),
        (Nic, "01:00:5e:12:34:56", Why::NotPermanent),
    ];
    for (kind, raw, why) in refusals {
        assert_eq!(value(*kind, raw), Err(*why), "{kind} {raw:?}");
    }
}

#[test]
fn one_part_has_one_value_however_it_is_written() {
    let check = |kind, raws: &[&str], expected: &str| {
        for raw in raws {
            assert_eq!(value(kind, raw).as_deref(), Ok(expected), "{raw:?}");
            assert_eq!(value(kind, expected).is_ok(), kind != Kind::Gpu, "{expected}");
        }
    };
    let uuid = "4c4c4544-004d-3910-8054-b7c04f5a4d32";
    check(
        Kind::ProductUuid,
        &[uuid, "4C4C4544-004D-3910-8054-B7C04F5A4D32\n", " 4c4c4544-004D-3910-8054-b7c04f5a4d32 "],
        uuid,
    );
    check(
        Kind::Gpu,
        &["GPU-4c4c4544-004d-3910-8054-b7c04f5a4d32", " \t GPU-4C4C4544-004d-3910-8054-b7c04f5a4d32"],
        uuid,
    );
    check(Kind::Disk, &["s5gxnx0t0 814k", "  S5GXNX0T0   814K  \0", "S5GXNX0T0\t814K"], "S5GXNX0T0 814K");
    check(Kind::BoardSerial, &["/7gx4r23/cnws2008b/\n"], "/7GX4R23/CNWS2008B/");
    check(Kind::Nic, &["3c:7c:3f:1a:9e:01\n", "3C:7C:3F:1A:9E:01"], "3c:7c:3f:1a:9e:01");
}

#[test]
fn a_value_counts_once() {
    let label = "PF3K9001Q";
    let readings = [
        (Kind::BoardSerial, label),
        (Kind::ProductSerial, "pf3k9001q"),
        (Kind::ChassisSerial, label),
        (Kind::Disk, label),
        (Kind::Disk, "pf3k9001q "),
    ];
    let fields = Fields::from_readings(readings);
    assert_eq!(fields.count(), 2, "a label of the board, and a drive that happens to be called so");
    let whys: Vec<_> = fields.absent().iter().map(|absent| (absent.kind, absent.why)).collect();
    let repeated = [Kind::ProductSerial, Kind::ChassisSerial, Kind::Disk].map(|kind| (kind, Why::Repeated));
    assert_eq!(whys, repeated);
}

#[test]
fn a_machine_of_many_parts_is_known_by_some_of_every_kind() {
    let gpu = |n: usize| (Kind::Gpu, format!("GPU-5a1e0d3c-77b2-4f19-8c4d-0b179e{n:02x}41f7"));
    let disk = |n: usize| (Kind::Disk, format!("S5GXNX0T{n:03}814K"));
    let nic = |n: usize| (Kind::Nic, format!("3c:7c:3f:1a:9e:{n:02x}"));
    let mut readings = vec![(Kind::BoardSerial, "/7GX4R23/CNWS2008B/".to_owned())];
    readings.extend((0..20).map(gpu).chain((0..30).map(disk)).chain((0..4).map(nic)));
    let fields =
        |readings: &[(Kind, String)]| Fields::from_readings(readings.iter().map(|(kind, raw)| (*kind, raw.as_str())));
    let chosen = fields(&readings);
    assert_eq!(usize::from(chosen.count()), FIELDS_MAX);
    let counts = [Kind::BoardSerial, Kind::Gpu, Kind::Disk, Kind::Nic].map(|kind| chosen.count_of(kind));
    assert_eq!(counts, [1, 6, 5, 4]);
    assert_eq!(chosen.absent().len(), 55 - FIELDS_MAX);
    readings.reverse();
    assert_eq!(fields(&readings).present(), chosen.present(), "in whatever order they are found");
}

#[test]
fn no_value_is_shown() {
    let serial = "S5GXNX0T814K";
    let fields = Fields::from_readings([(Kind::Disk, serial), (Kind::Disk, serial), (Kind::Nic, "52:54:00:12:34:56")]);
    let shown = format!("{fields} {fields:?} {:?} {:?}", fields.present(), fields.absent());
    for part in [serial, "5GXN", "814K", "12:34"] {
        assert!(!shown.contains(part), "{shown}");
    }
    let expected = "1 fields: disk 1; without nic 3: an address that software gave, disk 2: the same as another field";
    assert_eq!(fields.to_string(), expected);
}
