//! The engine with a journal in memory: logs live and die there, it survives kills, its loss is noticed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::journal::{FLUSH, Place, WRITE, commit, expect, journal};
use common::{ask, open_with, pattern, serve, spec};
use plica::core::request::RequestKind;
use plica::error::ErrorKind;
use plica::pool::{JournalFound, NamespaceSpec};

#[test]
fn a_ring_that_fits_lives_and_dies_in_the_journal() {
    // 16 MiB of ring, 8 KiB a commit, three passes; commits are padded to blocks
    let ring = 4096;
    let place = Place::new(128 << 20, 40 << 20, spec(ring));
    let figures = place.live(move |pool, client, _| async move {
        for pass in 0..3 {
            for lba in (0..ring).step_by(2) {
                commit(&client, lba, 2, pass).await;
            }
        }
        for lba in (0..ring).step_by(37) {
            expect(&client, lba, 2).await;
        }
        pool.status().namespaces[0].journal
    });
    let all = 3 * ring * 4096;
    println!("of {all} bytes: {figures:?}");
    assert!(figures.acknowledged * 100 >= all * 90, "{figures:?}");
    assert!(figures.destaged * 50 <= all, "{figures:?}");
    assert!(figures.died * 100 >= all * 55, "{figures:?}");
    // the daemon was killed, not stopped
    place.live(move |pool, client, _| async move {
        for lba in 0..ring {
            expect(&client, lba, 2).await;
        }
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_ring_that_does_not_fit_is_destaged_and_stays_right() {
    let ring = 4096;
    let place = Place::new(128 << 20, 6 << 20, spec(ring));
    let status = place.live(move |pool, client, _| async move {
        for pass in 0..2 {
            for lba in (0..ring).step_by(2) {
                commit(&client, lba, 2, pass).await;
            }
        }
        for lba in 0..ring {
            expect(&client, lba, 1).await;
        }
        pool.status()
    });
    println!("{:?} {:?}", status.journal, status.namespaces[0].journal);
    assert!(status.journal.unwrap().destaged_segments > 0);
    place.live(move |pool, client, _| async move {
        for lba in 0..ring {
            expect(&client, lba, 1).await;
        }
        pool.stop().await.unwrap();
    });
}

#[test]
fn floods_pass_by() {
    let place = Place::new(128 << 20, 16 << 20, spec(16 << 10));
    place.live(|pool, client, _| async move {
        for lba in (0..8192).step_by(64) {
            let data: Vec<u8> = (lba..lba + 64).flat_map(|lba| pattern(lba, 1)).collect();
            ask(&client, WRITE, lba * 4096, 64 * 4096, Some(data)).await.0.unwrap();
        }
        let after_large = pool.status().namespaces[0].journal;
        assert_eq!((after_large.acknowledged, after_large.bypassed), (0, 8192 * 4096));
        ask(&client, FLUSH, 0, 0, None).await.0.unwrap();
        for lba in 8192..12288 {
            ask(&client, WRITE, lba * 4096, 4096, Some(pattern(lba, 1))).await.0.unwrap();
        }
        let figures = pool.status().namespaces[0].journal;
        assert!(figures.acknowledged <= 2 << 20, "what is not flushed is no log: {figures:?}");
        pool.stop().await.unwrap();
    });
}

#[test]
fn nothing_readable_is_on_any_medium() {
    let place =
        Place::new(64 << 20, 8 << 20, NamespaceSpec { compression: plica::format::Compression::None, ..spec(1024) });
    let marker = b"a marker that nobody may find on a medium";
    place.live(move |pool, client, _| async move {
        for round in 0..4 {
            for lba in 0..64_u64 {
                let block: Vec<u8> = marker.iter().copied().cycle().skip(round).take(4096).collect();
                ask(&client, WRITE, lba * 4096, 4096, Some(block)).await.0.unwrap();
                ask(&client, FLUSH, 0, 0, None).await.0.unwrap();
            }
        }
        assert!(pool.status().namespaces[0].journal.acknowledged > 0);
        pool.stop().await.unwrap();
    });
    for path in [&place.pool, &place.journal] {
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes.windows(16).all(|window| window != &marker[..16]), "{} shows it", path.display());
    }
}

#[test]
fn a_lost_journal_is_noticed_and_never_reads_as_older_data() {
    let place = Place::new(64 << 20, 8 << 20, spec(4096));
    place.live(|_, client, env| async move {
        // one leaf through the journal, another (in large writes) past it
        for version in 0..3 {
            commit(&client, 7, 1, version).await;
            env.sleep_ns(50_000_000).await;
        }
        let data: Vec<u8> = (3072..3136).flat_map(|lba| pattern(lba, 9)).collect();
        ask(&client, WRITE, 3072 * 4096, 64 * 4096, Some(data)).await.0.unwrap();
        ask(&client, FLUSH, 0, 0, None).await.0.unwrap();
    });
    place.open_without(false, |opened, _, _| async move {
        let error = opened.err().unwrap();
        let text = error.to_string();
        assert!(
            text.contains("namespace db") && text.contains("LBAs 0..") && text.contains("--accept-journal-loss"),
            "{text}"
        );
    });
    place.open_without(true, |opened, _, _| async move {
        let pool = opened.unwrap();
        let client = pool.client("db").unwrap();
        for lba in [7, 8] {
            let (result, _) = ask(&client, RequestKind::Read, lba * 4096, 4096, None).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Io, "LBA {lba} may have been newer");
        }
        expect(&client, 3100, 9).await;
        ask(&client, WRITE, 7 * 4096, 4096, Some(pattern(7, 4))).await.0.unwrap();
        expect(&client, 7, 4).await;
        pool.stop().await.unwrap();
    });
    place.open_without(false, |opened, _, _| async move {
        let pool = opened.unwrap();
        let client = pool.client("db").unwrap();
        expect(&client, 7, 4).await;
        let (result, _) = ask(&client, RequestKind::Read, 8 * 4096, 4096, None).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Io);
        pool.stop().await.unwrap();
    });
}

#[test]
fn after_a_clean_stop_only_what_was_there_is_lost() {
    let place = Place::new(64 << 20, 8 << 20, spec(4096));
    place.live(|pool, client, env| async move {
        for version in 0..3 {
            commit(&client, 7, 1, version).await;
            env.sleep_ns(50_000_000).await;
        }
        pool.stop().await.unwrap();
    });
    place.open_without(true, |opened, _, _| async move {
        let pool = opened.unwrap();
        let client = pool.client("db").unwrap();
        let (result, _) = ask(&client, RequestKind::Read, 7 * 4096, 4096, None).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Io);
        let (result, data) = ask(&client, RequestKind::Read, 8 * 4096, 4096, None).await;
        result.unwrap();
        assert_eq!(data, [0; 4096]);
        pool.stop().await.unwrap();
    });
}

#[test]
fn another_or_an_older_journal_is_refused() {
    let place = Place::new(64 << 20, 8 << 20, spec(4096));
    let old = std::fs::read(&place.journal).unwrap();
    place.live(|pool, client, _| async move {
        commit(&client, 1, 1, 1).await;
        pool.stop().await.unwrap();
    });
    place.live(|pool, client, _| async move {
        commit(&client, 1, 1, 2).await;
        pool.stop().await.unwrap();
    });
    let other = Place::new(64 << 20, 8 << 20, spec(4096));
    let (now, foreign) = (std::fs::read(&place.journal).unwrap(), std::fs::read(&other.journal).unwrap());
    for (bytes, says) in [(old, "older state"), (foreign, "another pool"), (vec![0; 8 << 20], "no header")] {
        std::fs::write(&place.journal, bytes).unwrap();
        let (path, machine) = (place.journal.clone(), place.machine.clone());
        let error = serve(&place.pool, |env, media| async move {
            let found = Some(JournalFound::Here(journal(&path)));
            open_with(&env, &media, &machine, found, false).await.err().unwrap().to_string()
        });
        assert!(error.contains(says), "{error}");
    }
    std::fs::write(&place.journal, now).unwrap();
    place.live(|pool, client, _| async move {
        expect(&client, 1, 2).await;
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_journal_is_drained_and_removed_while_the_pool_is_served() {
    let place = Place::new(64 << 20, 8 << 20, spec(4096));
    place.live(|pool, client, env| async move {
        commit(&client, 0, 1, 0).await;
        env.sleep_ns(50_000_000).await;
        for lba in 0..500 {
            commit(&client, lba, 1, 1).await;
        }
        assert!(pool.status().journal.unwrap().resident > 0);
        pool.drain_journal().await.unwrap();
        assert_eq!(pool.status().journal.unwrap().resident, 0);
        commit(&client, 5, 1, 2).await;
        env.sleep_ns(50_000_000).await;
        commit(&client, 5, 1, 3).await;
        pool.remove_journal().await.unwrap();
        assert_eq!(pool.status().journal, None);
        commit(&client, 6, 1, 4).await;
    });
    // and it was killed
    place.open_without(false, |opened, _, _| async move {
        let pool = opened.unwrap();
        let client = pool.client("db").unwrap();
        expect(&client, 5, 3).await;
        expect(&client, 6, 4).await;
        for lba in (0..500).filter(|lba| ![5, 6].contains(lba)) {
            expect(&client, lba, 1).await;
        }
        pool.stop().await.unwrap();
    });
}

/// Given while the pool is served, taken away and given again; what is in it is there after a kill.
#[test]
fn a_journal_comes_and_goes_while_the_pool_is_served() {
    let place = Place::new(64 << 20, 8 << 20, spec(4096));
    let path = place.journal.clone();
    place.live(move |pool, client, env| async move {
        pool.remove_journal().await.unwrap();
        for version in 1..4 {
            commit(&client, 0, 1, version).await;
            assert_eq!(pool.status().journal, None);
            pool.add_journal(journal(&path), &path).await.unwrap();
            let refused = pool.add_journal(journal(&path), &path).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Exists, "{refused}");
            // the first one has the leaf marked
            commit(&client, 1, 1, version).await;
            env.sleep_ns(50_000_000).await;
            for lba in 2..300 {
                commit(&client, lba, 1, version).await;
            }
            expect(&client, 299, version).await;
            let status = pool.status().journal.unwrap();
            assert!(status.resident >= 200 * 4096 && status.segments_free < status.segments, "{status:?}");
            if version < 3 {
                pool.remove_journal().await.unwrap();
            }
        }
    });
    place.live(|pool, client, _| async move {
        for lba in 0..300 {
            expect(&client, lba, 3).await;
        }
        assert_eq!(pool.status().corrupt, 0);
        pool.stop().await.unwrap();
    });
}

/// New files of a log: filled with zeros in large writes without a flush, then written once in commits of which some are
/// large, then again when all had their turn.
#[test]
fn a_log_of_files_is_recognised() {
    let (file, files) = (1024, 6);
    let place = Place::new(128 << 20, 64 << 20, spec(file * files));
    place.live(move |pool, client, env| async move {
        let figures = || pool.status().namespaces[0].journal;
        let write_all = |round: u64| {
            let client = client.clone();
            async move {
                let (mut lba, mut turn) = (0, round);
                while lba < file * files {
                    let blocks = [2, 4, 2, 32][usize::try_from(turn % 4).unwrap()].min(file * files - lba);
                    commit(&client, lba, blocks, round).await;
                    (lba, turn) = (lba + blocks, turn + 1);
                }
            }
        };
        for lba in (0..file * files).step_by(32) {
            ask(&client, WRITE, lba * 4096, 32 * 4096, Some(vec![0; 32 * 4096])).await.0.unwrap();
        }
        let filled = figures();
        assert_eq!((filled.acknowledged, filled.bypassed_as.zeros), (0, file * files * 4096));
        // a commit beside a fill is none the less one
        commit(&client, 0, 1, 0).await;
        env.sleep_ns(50_000_000).await;
        write_all(1).await;
        let first = figures();
        write_all(2).await;
        let second = figures();
        println!("filled {filled:?}\nfirst {first:?}\nsecond {second:?}");
        assert_eq!((second.bypassed_as.cold, second.bypassed_as.load, second.bypassed_as.full), (0, 0, 0));
        let passed = second.bypassed - first.bypassed;
        assert!(passed * 50 <= file * files * 4096, "{passed} bytes of the second round");
        pool.stop().await.unwrap();
    });
}

/// Where batches start in a journal's bytes, in the order of their numbers.
fn batches(bytes: &[u8]) -> Vec<usize> {
    let starts = (256 << 10..bytes.len()).step_by(4096).filter(|at| bytes[*at..].starts_with(b"PLCb"));
    let mut numbered: Vec<(u64, usize)> =
        starts.map(|at| (u64::from_le_bytes(bytes[at + 32..at + 40].try_into().unwrap()), at)).collect();
    numbered.sort_unstable();
    numbered.into_iter().map(|(_, at)| at).collect()
}

#[test]
fn valid_batches_behind_a_damaged_one_are_recovered_and_the_damage_is_told() {
    let place = Place::new(64 << 20, 8 << 20, spec(4096));
    place.live(|pool, client, env| async move {
        // until a root marks its leaf it goes past the journal
        while pool.status().namespaces[0].journal.acknowledged == 0 {
            commit(&client, 7, 1, 0).await;
            env.sleep_ns(10_000_000).await;
        }
        for lba in 0..5 {
            commit(&client, lba, 1, 1).await;
        }
    });
    let whole = std::fs::read(&place.journal).unwrap();
    let found = batches(&whole);
    assert!(found.len() >= 6, "a batch a commit: {found:?}");
    let mut bytes = whole.clone();
    // in the payload of its only record
    bytes[found[found.len() - 3] + 64 + 40 + 100] ^= 1;
    std::fs::write(&place.journal, &bytes).unwrap();
    place.live(|pool, client, _| async move {
        let why = pool.status().read_only.unwrap();
        assert!(why.contains("of the journal") && why.contains("acknowledged"), "{why}");
        for lba in [0, 1, 3, 4] {
            expect(&client, lba, 1).await;
        }
        let (result, _) = ask(&client, WRITE, 0, 4096, Some(pattern(0, 2))).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnly);
    });
    // nothing was changed: with the journal as it was all is well
    std::fs::write(&place.journal, &whole).unwrap();
    place.live(|pool, client, _| async move {
        assert_eq!(pool.status().read_only, None);
        for lba in 0..5 {
            expect(&client, lba, 1).await;
        }
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_drain_in_a_pool_without_room_says_so_and_loses_nothing() {
    const LOG: u64 = 512;
    const BLOCKS: u64 = 8192;
    let spec = NamespaceSpec { compression: plica::format::Compression::None, ..spec(BLOCKS) };
    let place = Place::new(24 << 20, 8 << 20, spec);
    place.live(|pool, client, env| async move {
        commit(&client, 0, 1, 0).await;
        env.sleep_ns(50_000_000).await;
        for lba in 0..LOG {
            commit(&client, lba, 1, 1).await;
        }
        assert!(pool.status().namespaces[0].journal.resident > 1 << 20);
        let mut filled = 0;
        for lba in (LOG..BLOCKS).step_by(64) {
            let data: Vec<u8> = (lba..lba + 64).flat_map(|lba| pattern(lba, 2)).collect();
            match ask(&client, WRITE, lba * 4096, 64 * 4096, Some(data)).await.0 {
                Ok(()) => filled += 64,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NoSpace);
                    break;
                }
            }
        }
        assert!(filled < BLOCKS - LOG, "the pool is to be full");
        assert_eq!(pool.drain_journal().await.unwrap_err().kind(), ErrorKind::NoSpace);
        for lba in 0..LOG {
            expect(&client, lba, 1).await;
        }
        let discard = ask(&client, RequestKind::Discard, LOG * 4096, (BLOCKS - LOG) * 4096, None).await;
        discard.0.unwrap();
        ask(&client, FLUSH, 0, 0, None).await.0.unwrap();
        pool.drain_journal().await.unwrap();
        assert_eq!(pool.status().journal.unwrap().resident, 0);
        for lba in 0..LOG {
            expect(&client, lba, 1).await;
        }
        pool.stop().await.unwrap();
    });
    place.live(|pool, client, _| async move {
        for lba in 0..LOG {
            expect(&client, lba, 1).await;
        }
        pool.stop().await.unwrap();
    });
}
