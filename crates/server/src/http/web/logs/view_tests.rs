use super::*;
use crate::http::web::logs::progress::Stage;
use crate::logs::Writer;

const ID: &str = "plan-1";

fn writer() -> Writer {
    Writer {
        generation: 1,
        attempt: AttemptId::from_random([1; 16]),
        holds_job: true,
    }
}

async fn view(store: &LogStore, lines: &LogLines) -> LogView {
    LogView::open(store, lines, ID).await.unwrap()
}

#[tokio::test]
async fn lines_are_found_by_their_numbers_while_a_log_grows_and_when_it_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (store, lines) = (LogStore::open(folder.path()).unwrap(), LogLines::default());
    assert!(view(&store, &lines).await.is_empty());
    let mut log = String::new();
    for number in 0..1303 {
        log.push_str(&format!("line {number}\n"));
        if number % 7 == 0 {
            log.push_str("{\"@level\":\"info\",\"@message\":\"one\\ntwo\",\"type\":\"log\"}\n");
        }
    }
    log.push_str("Error: broken\nunfinished");
    let mut offset = 0;
    let mut pieces = log.as_bytes().chunks(1001).peekable();
    while let Some(piece) = pieces.next() {
        store.append(ID, &writer(), offset, piece).unwrap();
        offset += piece.len() as u64;
        if pieces.peek().is_some() {
            view(&store, &lines).await;
        }
    }
    let expected: Vec<String> = (0..1303)
        .flat_map(|number| {
            let more = if number % 7 == 0 {
                vec!["one", "two"]
            } else {
                Vec::new()
            };
            std::iter::once(format!("line {number}")).chain(more.into_iter().map(str::to_owned))
        })
        .chain(["Error: broken".to_owned()])
        .collect();
    let seen = view(&store, &lines).await;
    assert_eq!(
        seen.len(),
        expected.len(),
        "a line that is being written is not shown"
    );
    assert_eq!(seen.last_error(), Some(expected.len()));
    assert_eq!(seen.range(1, usize::MAX).await.unwrap(), expected);
    for (from, to) in [
        (1, 1),
        (499, 502),
        (500, 500),
        (501, 1000),
        (1200, 1600),
        (1670, 1676),
    ] {
        assert_eq!(
            seen.range(from, to).await.unwrap(),
            expected[from - 1..to.min(expected.len())],
            "{from} to {to}"
        );
    }
    store.seal(ID).await.unwrap();
    let seen = view(&store, &lines).await;
    assert_eq!(seen.len(), expected.len() + 1);
    assert_eq!(
        seen.range(expected.len(), expected.len() + 9).await.unwrap(),
        ["Error: broken", "unfinished"]
    );
    // And by an index that begins with the whole log.
    let anew = view(&store, &LogLines::default()).await;
    assert_eq!(anew.len(), seen.len());
    let at = expected.iter().position(|line| line == "line 1302").unwrap() + 1;
    assert_eq!(seen.find("LINE 1302").await.unwrap(), [at]);
    assert_eq!(seen.find("two").await.unwrap().len(), 187);
    assert!(seen.find("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_line_without_an_end_is_shown_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let (store, lines) = (LogStore::open(folder.path()).unwrap(), LogLines::default());
    let long = vec![b'x'; 2 * BLOCK + 5];
    store.append(ID, &writer(), 0, &long).unwrap();
    store.seal(ID).await.unwrap();
    let seen = view(&store, &lines).await;
    let pieces = seen.range(1, 9).await.unwrap();
    let length: usize = pieces.iter().map(String::len).sum();
    assert_eq!((seen.len(), pieces.len(), length), (3, 3, long.len()));
    assert_eq!(seen.range(2, 2).await.unwrap(), [pieces[1].clone()]);
}

#[tokio::test]
async fn what_is_delivered_after_the_end_follows_it_and_makes_its_last_line_and_its_steps_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (store, lines) = (LogStore::open(folder.path()).unwrap(), LogLines::default());
    let delivery = |complete| Delivery {
        generation: 1,
        attempt: writer().attempt,
        complete,
        mark: "delivered later",
    };
    let look = async |complete| {
        let sealed = view(&store, &lines).await;
        sealed.with_delivery(&lines, &delivery(complete)).await.unwrap()
    };
    let before = "a.a: Creating...\na.b: Creating...\na.b: Creation comp";
    store.append(ID, &writer(), 0, before.as_bytes()).unwrap();
    store.seal(ID).await.unwrap();
    let sealed = look(false).await;
    assert!(!sealed.has_delivery());
    assert_eq!(sealed.range(1, 9).await.unwrap()[2], "a.b: Creation comp");
    let stages = |view: &LogView| -> Vec<(String, Stage)> {
        let steps = view.steps().iter();
        steps.map(|step| (step.address.clone(), step.stage)).collect()
    };
    let (a, b) = ("a.a".to_owned(), "a.b".to_owned());
    assert_eq!(
        stages(&sealed),
        [(a.clone(), Stage::Working), (b.clone(), Stage::Working)]
    );

    let mut offset = before.len() as u64;
    for piece in [
        "lete after 3s\na.a: Creation ",
        "errored after 4s\nError: broken\nthe",
        " end",
    ] {
        store.append(ID, &writer(), offset, piece.as_bytes()).unwrap();
        offset += piece.len() as u64;
        look(false).await;
    }
    let expected = [
        "a.a: Creating...",
        "a.b: Creating...",
        "delivered later",
        "a.b: Creation complete after 3s",
        "a.a: Creation errored after 4s",
        "Error: broken",
    ];
    let seen = look(false).await;
    assert!(seen.has_delivery());
    assert_eq!(
        seen.len(),
        expected.len(),
        "more may come of a line without an end"
    );
    assert_eq!(seen.range(1, usize::MAX).await.unwrap(), expected);
    for (from, to) in [(1, 2), (2, 3), (3, 3), (3, 4), (4, 6), (5, 5)] {
        let range = seen.range(from, to).await.unwrap();
        assert_eq!(range, expected[from - 1..to], "{from} to {to}");
    }
    assert_eq!(stages(&seen), [(a, Stage::Failed), (b, Stage::Done)]);
    assert_eq!(seen.last_error(), Some(6));
    assert_eq!(seen.find("creation").await.unwrap(), [4, 5]);
    let whole = look(true).await;
    assert_eq!(whole.range(6, 9).await.unwrap(), ["Error: broken", "the end"]);
    assert_eq!(
        view(&store, &lines).await.len(),
        3,
        "the log itself has not changed"
    );
}

#[tokio::test]
async fn a_log_that_another_attempt_goes_on_with_tells_where_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let (store, lines) = (LogStore::open(folder.path()).unwrap(), LogLines::default());
    store.append(ID, &writer(), 0, b"one\ntwo\n").unwrap();
    assert!(view(&store, &lines).await.attempts().is_empty());
    let second = Writer {
        generation: 2,
        attempt: AttemptId::from_random([2; 16]),
        holds_job: true,
    };
    store.append(ID, &second, 0, b"again\n").unwrap();
    let seen = view(&store, &lines).await;
    assert_eq!(seen.attempts(), [5]);
    assert_eq!(seen.range(5, 5).await.unwrap(), ["again"]);
}
