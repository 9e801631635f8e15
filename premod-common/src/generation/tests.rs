use super::*;

const CLEAN_MAPPING: Mapping = Mapping {
    dirty: false,
    aged: false,
};
const DIRTY_MAPPING: Mapping = Mapping {
    dirty: true,
    aged: false,
};
const WRITE: Touch = Touch {
    unpaged: false,
    own: false,
};
const TRUNCATE: Touch = Touch {
    unpaged: true,
    own: false,
};
const OWN: Touch = Touch {
    unpaged: false,
    own: true,
};

fn stored(step: Step) -> Word {
    match step {
        Step::Store(word) | Step::Announce(word, _) => word,
        Step::Nothing => panic!("expected a new word"),
    }
}

/// Touches, delivers and dirties a page.
fn written(word: Word) -> Word {
    let word = stored(touch(word, CLEAN_MAPPING, WRITE));
    let word = stored(announced(word, word.generation(), true));
    stored(dirtied(word, CLEAN_MAPPING, false))
}

#[test]
fn first_touch_announces_and_further_touches_do_not() {
    let step = touch(Word::default(), CLEAN_MAPPING, WRITE);
    assert!(matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 1));
    let word = stored(announced(stored(step), 1, true));
    assert_eq!(
        touch(word, CLEAN_MAPPING, WRITE),
        Step::Nothing,
        "announced, not yet dirty"
    );
    let word = stored(dirtied(word, CLEAN_MAPPING, false));
    assert_eq!(touch(word, DIRTY_MAPPING, WRITE), Step::Nothing);
    let word = stored(dirtied(word, DIRTY_MAPPING, false));
    assert_eq!(dirtied(word, DIRTY_MAPPING, false), Step::Nothing);
}

#[test]
fn a_clean_mapping_after_dirty_pages_begins_a_new_generation() {
    let word = written(Word::default());
    let step = touch(word, CLEAN_MAPPING, WRITE);
    assert!(matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 2));
}

#[test]
fn a_mark_that_outlives_a_sync_keeps_nothing_silent() {
    let word = written(Word::default());
    assert_eq!(touch(word, DIRTY_MAPPING, WRITE), Step::Nothing);
    let step = touch(stored(doubted(word)), DIRTY_MAPPING, WRITE);
    let Step::Announce(word, Announcement::First) = step else {
        panic!("{step:?}")
    };
    assert_eq!(word.generation(), 2);
    assert_eq!(doubted(word), Step::Nothing, "not delivered yet");
    let word = stored(announced(word, 2, true));
    assert_eq!(touch(word, DIRTY_MAPPING, WRITE), Step::Nothing);
}

#[test]
fn a_touch_during_delivery_echoes_the_same_generation() {
    let word = stored(touch(Word::default(), CLEAN_MAPPING, WRITE));
    let step = touch(word, CLEAN_MAPPING, WRITE);
    assert!(matches!(step, Step::Announce(word, Announcement::Echo) if word.generation() == 1));
}

#[test]
fn a_lost_announcement_is_repeated_with_its_generation() {
    let word = stored(touch(Word::default(), CLEAN_MAPPING, WRITE));
    let word = stored(announced(word, 1, false));
    assert!(word.is_lost());
    let step = touch(word, DIRTY_MAPPING, WRITE);
    assert!(matches!(step, Step::Announce(word, Announcement::Retry) if word.generation() == 1));
    let step = dirtied(word, CLEAN_MAPPING, false);
    assert!(matches!(step, Step::Announce(word, Announcement::Retry) if word.generation() == 1));
}

#[test]
fn pages_dirtied_without_a_touch_are_late() {
    let step = dirtied(Word::default(), CLEAN_MAPPING, false);
    assert!(matches!(step, Step::Announce(word, Announcement::Late) if word.generation() == 1));
    let step = dirtied(written(Word::default()), CLEAN_MAPPING, false);
    assert!(matches!(step, Step::Announce(word, Announcement::Late) if word.generation() == 2));
}

#[test]
fn a_change_without_pages_lasts_until_a_sync() {
    let word = stored(touch(Word::default(), CLEAN_MAPPING, TRUNCATE));
    let word = stored(announced(word, 1, true));
    assert_eq!(touch(word, CLEAN_MAPPING, TRUNCATE), Step::Nothing);
    assert_eq!(touch(word, CLEAN_MAPPING, WRITE), Step::Nothing);
    let word = stored(synced(word));
    let step = touch(word, CLEAN_MAPPING, TRUNCATE);
    assert!(matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 2));
}

#[test]
fn a_change_without_pages_ages() {
    const AGED: Mapping = Mapping {
        dirty: false,
        aged: true,
    };
    let word = stored(touch(Word::default(), CLEAN_MAPPING, TRUNCATE));
    let word = stored(announced(word, 1, true));
    assert!(
        matches!(touch(word, AGED, TRUNCATE), Step::Announce(word, _) if word.generation() == 2)
    );
    let dirty = Mapping {
        dirty: true,
        aged: true,
    };
    assert!(
        matches!(touch(word, dirty, WRITE), Step::Store(word) if word.generation() == 1),
        "dirty pages do not age"
    );
    assert!(!written(Word::default()).age_matters());
}

#[test]
fn a_truncate_among_dirty_pages_waits_for_a_sync_of_its_own() {
    let word = written(Word::default());
    let word = stored(touch(word, DIRTY_MAPPING, TRUNCATE));
    assert!(
        !word.settled(CLEAN_MAPPING),
        "the truncate dropped the pages, nothing is on disk"
    );
    let word = stored(synced(word));
    assert!(word.settled(CLEAN_MAPPING));
    let word = stored(touch(word, DIRTY_MAPPING, TRUNCATE));
    assert!(
        !word.settled(CLEAN_MAPPING),
        "a second truncate came after the sync"
    );
}

#[test]
fn what_is_silent_while_dirty_takes_no_step_while_dirty() {
    let mut silent = 0;
    for bits in 0..1u64 << 10 {
        let word = Word(bits);
        if word.silent_while_dirty() {
            silent += 1;
            assert_eq!(touch(word, DIRTY_MAPPING, WRITE), Step::Nothing, "{word:?}");
            assert_eq!(touch(word, DIRTY_MAPPING, OWN), Step::Nothing, "{word:?}");
        }
    }
    assert!(silent > 0 && written(Word::default()).silent_while_dirty());
}

#[test]
fn own_touches_are_silent_and_hide_nobody() {
    assert_eq!(touch(Word::default(), CLEAN_MAPPING, OWN), Step::Nothing);
    let word = stored(touch(written(Word::default()), CLEAN_MAPPING, OWN));
    let step = touch(word, DIRTY_MAPPING, WRITE);
    assert!(matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 2));
}

#[test]
fn an_echo_that_was_delivered_makes_up_for_a_loss() {
    let word = stored(touch(Word::default(), CLEAN_MAPPING, WRITE));
    let lost = stored(announced(word, 1, false));
    assert!(lost.is_lost());
    let word = stored(announced(lost, 1, true));
    let word = stored(dirtied(word, CLEAN_MAPPING, false));
    let step = touch(word, CLEAN_MAPPING, WRITE);
    assert!(
        matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 2),
        "a retry of generation 1 would be dropped as the echo's duplicate"
    );
}

#[test]
fn a_generation_that_begins_on_dirty_pages_ends_when_they_are_clean() {
    let word = stored(touch(Word::default(), DIRTY_MAPPING, WRITE));
    let word = stored(announced(word, 1, true));
    assert_eq!(touch(word, DIRTY_MAPPING, WRITE), Step::Nothing);
    let step = touch(word, CLEAN_MAPPING, WRITE);
    assert!(matches!(step, Step::Announce(word, Announcement::First) if word.generation() == 2));
}

#[test]
fn the_mark_changes_the_word_once() {
    let before_the_mark = written(Word::default());
    let after_the_mark = stored(dirtied(before_the_mark, DIRTY_MAPPING, false));
    assert_ne!(
        before_the_mark, after_the_mark,
        "a touch that looked before the mark must fail to swap"
    );
    assert_eq!(dirtied(after_the_mark, DIRTY_MAPPING, false), Step::Nothing);
}

#[test]
fn pages_dirtied_after_a_sync_of_unpaged_changes_are_late() {
    let word = stored(touch(Word::default(), CLEAN_MAPPING, TRUNCATE));
    let word = stored(synced(stored(announced(word, 1, true))));
    let step = dirtied(word, CLEAN_MAPPING, false);
    assert!(matches!(step, Step::Announce(word, Announcement::Late) if word.generation() == 2));
}

#[test]
fn a_sync_between_a_touch_and_its_page_ends_the_generation() {
    let word = stored(touch(Word::default(), CLEAN_MAPPING, WRITE));
    let word = stored(synced(stored(announced(word, 1, true))));
    let step = dirtied(word, CLEAN_MAPPING, false);
    assert!(matches!(step, Step::Announce(word, Announcement::Late) if word.generation() == 2));
}

#[test]
fn a_late_verdict_of_a_former_generation_changes_nothing() {
    let word = written(Word::default());
    assert_eq!(announced(word, 1, false), Step::Nothing);
    let emitting = stored(touch(word, CLEAN_MAPPING, WRITE));
    assert_eq!(announced(emitting, 1, true), Step::Nothing);
}
