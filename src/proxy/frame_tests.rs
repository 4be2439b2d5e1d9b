//! The tracker over arbitrary frames, cut anywhere.

use proptest::prelude::*;

use super::*;

/// Every end that a stream has, with its place.
fn ends(stream: &[u8], cuts: &[usize], headers: bool) -> Vec<(usize, Frame)> {
    let mut tracker = Tracker::default();
    let mut found = Vec::new();
    let mut at = 0;
    let mut chunks: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    chunks.push(stream.len());
    chunks.sort_unstable();
    for end in chunks {
        loop {
            let (used, mark) = tracker.advance(&stream[at..end], headers);
            at += used;
            match mark {
                None => break,
                Some(Mark::Header(_)) => {}
                Some(Mark::End(frame)) => {
                    found.push((at, frame));
                    assert!(tracker.at_frame());
                    assert_eq!(tracker.at_message(), frame != Frame::Fragment && !within(&found));
                }
            }
        }
        assert_eq!(at, end, "everything is taken");
    }
    found
}

/// Whether the last data frame was no last one.
fn within(found: &[(usize, Frame)]) -> bool {
    found
        .iter()
        .rev()
        .find(|(_, frame)| matches!(frame, Frame::Message | Frame::Fragment))
        .is_some_and(|(_, frame)| *frame == Frame::Fragment)
}

fn any_frame() -> impl Strategy<Value = (Vec<u8>, Frame)> {
    let length = prop_oneof![0usize..4, 120usize..130, 65_530usize..65_540];
    let opcode = prop_oneof![Just(0u8), Just(1), Just(2), Just(8), Just(9), Just(10)];
    (opcode, any::<bool>(), any::<Option<[u8; 4]>>(), length, 0u8..8).prop_map(
        |(opcode, fin, mask, length, reserved)| {
            let length = if opcode >= 8 { length.min(125) } else { length };
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut bytes = frame(opcode, &payload, mask);
            bytes[0] |= reserved << 4;
            if opcode < 8 && !fin {
                bytes[0] &= !FIN;
            }
            let kind = match opcode {
                CLOSE if length < 2 => Frame::Close(1005),
                CLOSE => Frame::Close(1),
                9.. => Frame::Control,
                _ if bytes[0] & FIN == 0 => Frame::Fragment,
                _ => Frame::Message,
            };
            (bytes, kind)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn frames_are_found_wherever_the_stream_is_cut(
        frames in proptest::collection::vec(any_frame(), 1..12),
        cuts in proptest::collection::vec(any::<usize>(), 0..24),
        headers: bool,
    ) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (bytes, kind) in &frames {
            stream.extend_from_slice(bytes);
            expected.push((stream.len(), *kind));
        }
        prop_assert_eq!(ends(&stream, &cuts, headers), expected);
    }
}

#[test]
fn one_byte_at_a_time() {
    let mut stream = close(1012, "order", Some([1, 2, 3, 4]));
    stream.extend(text(&"x".repeat(300)));
    let cuts: Vec<usize> = (0..stream.len()).collect();
    let found = ends(&stream, &cuts, true);
    assert_eq!(found[0].1, Frame::Close(1012));
    assert_eq!(found[1], (stream.len(), Frame::Message));
}

#[test]
fn a_header_tells_what_follows() {
    let stream = text(&"x".repeat(300));
    let (used, mark) = Tracker::default().advance(&stream, true);
    let Some(Mark::Header(header)) = mark else {
        panic!("{mark:?}")
    };
    assert_eq!(
        (used, header.opcode(), header.length, header.mask),
        (4, TEXT, 300, None)
    );
    assert!(header.is_plain_whole());
}

#[test]
fn reasons_fit_into_a_control_frame() {
    let long = format!("{}é", "x".repeat(122));
    assert_eq!(close(1012, &long, None).len(), 2 + 2 + 122);
    assert_eq!(close(1012, &"x".repeat(300), None)[1], 125);
}

#[test]
fn a_frame_made_masked_is_read_back() {
    let mut made = close(1001, "away", Some([9, 8, 7, 6]));
    unmask(&mut made[6..], Some([9, 8, 7, 6]));
    assert_eq!(&made[6..8], &1001u16.to_be_bytes());
    assert_eq!(&made[8..], b"away");
}
