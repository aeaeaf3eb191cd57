//! The events of a rig's life, one for each row of the research on keys without a TPM.

use identity::binding::{BindError, Broken, FIELDS_MIN, Opened, bind, open};

use crate::rig::Rig;

/// Binds to `before`, opens in `after`.
fn moved(before: &Rig, after: &Rig) -> Result<Opened, Broken> {
    let (bound, kek) = bind(&before.fields()).expect("enough fields");
    let opened = open(&bound, &after.fields());
    if let Ok(opened) = &opened {
        assert_eq!(opened.kek.as_bytes(), kek.as_bytes());
    }
    opened
}

#[track_caller]
fn opens(before: &Rig, after: &Rig, matched: u8, of: u8) {
    let opened = moved(before, after).expect("it opens");
    assert_eq!((opened.matched, opened.of), (matched, of));
    let is_same = matched == of && after.fields().count() == of;
    assert_eq!(opened.has_drifted, !is_same);
}

#[track_caller]
fn refused(before: &Rig, after: &Rig) {
    let broken = moved(before, after).expect_err("another machine");
    let (of, present) = (before.fields().count(), after.fields().count());
    assert_eq!(broken, Broken { present, of, needed: of / 2 + 1 });
}

#[test]
fn the_same_rig_opens_without_drift() {
    opens(&Rig::usual(1), &Rig::usual(1), 7, 7);
}

#[test]
fn a_gpu_swapped_for_another_is_borne() {
    let after = Rig::usual(1);
    after.gpu(1, 9, 9);
    opens(&Rig::usual(1), &after, 6, 7);
}

#[test]
fn a_gpu_more_is_drift_and_no_more() {
    let after = Rig::usual(1);
    after.gpu(7, 9, 9);
    opens(&Rig::usual(1), &after, 7, 7);
}

#[test]
fn gpus_in_other_slots_are_the_same_gpus() {
    let (before, after) = (Rig::bare(), Rig::bare());
    for slot in 0..12 {
        before.gpu(slot, 1, slot);
        after.gpu(slot + 3, 1, (slot * 5 + 7) % 12);
    }
    opens(&before, &after, 12, 12);
}

#[test]
fn a_board_swapped_under_the_same_cards_and_drives_is_borne() {
    let after = Rig::usual(1);
    after.board(9);
    opens(&Rig::usual(1), &after, 5, 7);
    // The network card was soldered to it.
    after.without("sys/class/net/enp4s0");
    opens(&Rig::usual(1), &after, 4, 7);
}

#[test]
fn a_stick_in_another_rig_opens_nothing() {
    refused(&Rig::usual(1), &Rig::usual(2));
}

#[test]
fn a_stick_with_its_drive_and_two_gpus_in_another_rig_opens_nothing() {
    let thief = Rig::usual(2);
    thief.without("sys/block/nvme0n1").without("sys/devices/pci0000:00/0000:00:1d.0").nvme(1);
    thief.gpu(0, 1, 0).gpu(1, 1, 1);
    refused(&Rig::usual(1), &thief);
    // One more would be the majority, and it says so.
    thief.gpu(2, 1, 2);
    opens(&Rig::usual(1), &thief, 4, 7);
}

#[test]
fn a_machine_with_too_few_fields_for_it_is_refused_without_a_search() {
    let thief = Rig::bare();
    thief.board(1).nvme(1);
    assert_eq!(thief.fields().count(), 3);
    refused(&Rig::usual(1), &thief);
    refused(&Rig::usual(1), &Rig::bare());
}

#[test]
fn a_machine_of_two_usable_fields_claims_no_binding() {
    let rig = Rig::bare();
    for usable in 0..3 {
        match bind(&rig.fields()) {
            Err(BindError::TooFewFields { usable: counted, needed }) => {
                assert_eq!((counted, usize::from(needed)), (usable, FIELDS_MIN));
            }
            Err(BindError::Random(error)) => panic!("{error}"),
            Ok(_) => panic!("{usable} fields are bound"),
        }
        rig.dmi("product_uuid", "03000200-0400-0500-0006-000700080009").gpu(usable, 1, usable);
    }
    assert_eq!(bind(&rig.fields()).expect("three GPUs").0.needed(), 2);
}

#[test]
fn a_rig_that_drifts_again_and_again_is_followed_until_nothing_of_it_is_left() {
    let rig = Rig::usual(1);
    let mut bound = bind(&rig.fields()).expect("seven fields").0;
    let changes: [&dyn Fn(); 4] =
        [&|| _ = rig.board(9), &|| _ = rig.gpu(0, 9, 0).gpu(1, 9, 1), &|| _ = rig.gpu(2, 9, 2).nic(9), &|| {
            _ = rig.without("sys/devices/pci0000:00/0000:00:1d.0").without("sys/block/nvme0n1").nvme(9)
        }];
    let first = bound.clone();
    for (change, matched) in changes.into_iter().zip([5, 5, 5, 6]) {
        change();
        let opened = open(&bound, &rig.fields()).expect("a change that is borne");
        assert!((opened.matched, opened.has_drifted) == (matched, true), "{opened:?}");
        bound = bind(&rig.fields()).expect("seven fields").0;
    }
    assert_eq!(rig.fields().present(), Rig::usual(9).fields().present());
    assert!(open(&first, &rig.fields()).is_err(), "all at once is another machine");
}

#[test]
fn two_rigs_of_one_batch_do_not_open_each_others() {
    let rig = |number: u8| {
        let rig = Rig::bare();
        rig.dmi("product_uuid", "03000200-0400-0500-0006-000700080009")
            .dmi("board_serial", "Default string")
            .dmi("product_serial", "0123456789")
            .dmi("chassis_serial", "To be filled by O.E.M.")
            .nvme(number)
            .nic(number)
            .gpu(0, number, 0);
        rig
    };
    assert_eq!(rig(1).fields().count(), 3, "what is alike is no field");
    opens(&rig(1), &rig(1), 3, 3);
    refused(&rig(1), &rig(2));
    refused(&rig(2), &rig(1));
}

#[test]
fn a_value_that_moves_to_another_kind_matches_nothing() {
    let (before, after) = (Rig::bare(), Rig::bare());
    let serials = ["PF3K9001Q", "7GX4R201CN", "CNWS2008B7"];
    for (number, serial) in serials.into_iter().enumerate() {
        let name = |number: usize| ["board_serial", "product_serial", "chassis_serial"][number % 3];
        before.dmi(name(number), serial);
        after.dmi(name(number + 1), serial);
    }
    opens(&before, &before, 3, 3);
    refused(&before, &after);
}

#[test]
fn two_bindings_of_one_machine_have_nothing_in_common() {
    let fields = Rig::usual(1).fields();
    let [(one, one_kek), (other, other_kek)] = [(); 2].map(|()| bind(&fields).expect("seven fields"));
    assert_ne!(one_kek.as_bytes(), other_kek.as_bytes());
    let (one, other) = (one.to_bytes(), other.to_bytes());
    let same = one.iter().zip(&other).skip(9).filter(|(one, other)| one == other).count();
    assert!(same < one.len() / 16, "{same} of {} bytes", one.len());
}
