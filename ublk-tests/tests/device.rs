//! The real device: every scenario in a guest of its own that has ublk.
//!
//! A guest takes two seconds to boot; one for each scenario keeps what one leaves behind from the next.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ublk_tests::{binaries, scenario::SCENARIOS, vm::Vm};

fn run(name: &str) {
    binaries::build_plica().unwrap();
    let command = format!("{} scenario {name} $SCRATCH", env!("CARGO_BIN_EXE_guest"));
    Vm::default().scratch("5G").limit(900).run(&command).unwrap();
}

macro_rules! scenarios {
    ($($(#[$attribute:meta])* $test:ident $name:literal)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $test() {
                run($name);
            }
        )*

        #[test]
        fn no_scenario_is_left_out() {
            let tested = [$($name),*];
            let known: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
            assert_eq!(tested[..], known[..]);
        }
    };
}

scenarios! {
    ext4 "ext4"
    xfs "xfs"
    btrfs "btrfs"
    verify_random "verify-random"
    verify_mixed "verify-mixed"
    verify_sectors "verify-sectors"
    verify_gcm_zstd "verify-gcm-zstd"
    discard "discard"
    fstrim "fstrim"
    two_keys "two-keys"
    many_namespaces "many-namespaces"
    online_namespaces "online-namespaces"
    resized "resized"
    daemon_death "daemon-death"
    daemon_death_acknowledged "daemon-death-acknowledged"
    daemon_death_mounted "daemon-death-mounted"
    #[ignore = "takes eight minutes: scripts/test --long"]
    daemon_death_hundred "daemon-death-hundred"
    upgrades "upgrades"
    refusals "refusals"
    postgres_crash "postgres-crash"
    postgres_journal "postgres-journal"
    sealed "sealed"
    nbd_client "nbd-client"
}
