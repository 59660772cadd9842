use super::*;

fn writer(generation: u64, byte: u8) -> Writer {
    Writer {
        generation,
        attempt: AttemptId::from_random([byte; 16]),
        holds_job: true,
    }
}

fn sha256(bytes: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(bytes);
    hex(digest)
}

fn store() -> (tempfile::TempDir, LogStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path()).unwrap();
    (folder, store)
}

async fn whole(store: &LogStore, id: &str) -> Vec<u8> {
    store.read(id, 0, usize::MAX >> 1).await.unwrap()
}

#[tokio::test]
async fn appends_follow_the_offset_rules() {
    let (_folder, logs) = store();
    let me = writer(1, 1);
    assert_eq!(logs.append("plan-1", &me, 0, b"hello ").unwrap().received, 6);
    assert_eq!(logs.append("plan-1", &me, 0, b"hello ").unwrap().received, 6);
    assert_eq!(logs.append("plan-1", &me, 2, b"llo world").unwrap().received, 11);
    let ahead = logs.append("plan-1", &me, 12, b"x");
    assert!(matches!(ahead, Err(LogError::Ahead(position)) if position.received == 11));
    assert_eq!(whole(&logs, "plan-1").await, b"\x02hello world");
    let done = logs.complete("plan-1", &me).await.unwrap();
    assert_eq!(
        done.position,
        LogPosition {
            received: 11,
            durable: 11
        }
    );
    assert_eq!(done.sha256, sha256(b"hello world"));
}

#[tokio::test]
async fn any_range_of_bytes_can_be_read_and_there_is_nothing_behind_the_end() {
    let (_folder, logs) = store();
    logs.append("plan-1", &writer(1, 1), 0, b"hello").unwrap();
    assert_eq!(logs.seal("plan-1").await.unwrap(), 7);
    assert_eq!(logs.seal("plan-1").await.unwrap(), 7);
    assert_eq!(logs.read("plan-1", 3, 2).await.unwrap(), b"ll");
    assert_eq!(logs.read("plan-1", 6, 100).await.unwrap(), [ETX]);
    assert!(logs.read("plan-1", 700, 100).await.unwrap().is_empty());
    assert!(logs.read("plan-2", 0, 100).await.unwrap().is_empty());
    assert!(matches!(
        logs.read("../etc/passwd", 0, 1).await,
        Err(LogError::InvalidId(_))
    ));
}

#[tokio::test]
async fn a_log_that_never_started_still_ends() {
    let (_folder, logs) = store();
    logs.seal("apply-1").await.unwrap();
    assert_eq!(whole(&logs, "apply-1").await, [STX, ETX]);
}

#[tokio::test]
async fn a_second_attempt_follows_in_the_same_log_and_the_first_goes_apart() {
    let (_folder, logs) = store();
    logs.append("plan-1", &writer(1, 1), 0, b"first").unwrap();
    logs.append("plan-1", &writer(2, 2), 0, b"second").unwrap();
    let superseded = Writer {
        holds_job: false,
        ..writer(1, 1)
    };
    let late = logs.append("plan-1", &superseded, 5, b" late").unwrap();
    assert_eq!(late.received, 10);
    let done = logs.complete("plan-1", &superseded).await.unwrap();
    assert_eq!(done.sha256, sha256(b"first late"));
    assert_eq!(done.position.durable, 10);
    let text = String::from_utf8(whole(&logs, "plan-1").await).unwrap();
    assert!(
        text.starts_with("\u{2}first\n") && text.ends_with("\nsecond"),
        "{text:?}"
    );
    let second = logs.complete("plan-1", &writer(2, 2)).await.unwrap();
    assert_eq!(second.sha256, sha256(b"second"));
}

#[tokio::test]
async fn what_comes_after_the_seal_is_delivered_but_does_not_change_the_log() {
    let (_folder, logs) = store();
    let me = writer(1, 1);
    logs.append("apply-1", &me, 0, b"first").unwrap();
    logs.seal("apply-1").await.unwrap();
    let sealed = whole(&logs, "apply-1").await;
    assert_eq!(logs.append("apply-1", &me, 5, b" rest").unwrap().received, 10);
    let done = logs.complete("apply-1", &me).await.unwrap();
    assert_eq!(done.sha256, sha256(b"first rest"));
    assert_eq!(whole(&logs, "apply-1").await, sealed);
    let later = |offset, limit| logs.read_later("apply-1", (1, &me.attempt), offset, limit);
    assert_eq!(later(0, 100).await.unwrap(), b" rest");
    assert_eq!(later(1, 2).await.unwrap(), b"re");
    let other = writer(1, 2);
    let nothing = logs.read_later("apply-1", (1, &other.attempt), 0, 100);
    assert!(nothing.await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restarted_store_goes_on_where_the_files_end() {
    let (folder, logs) = store();
    let me = writer(3, 1);
    logs.append("plan-1", &me, 0, b"hello").unwrap();
    logs.append("plan-2", &me, 0, b"hello").unwrap();
    logs.seal("plan-2").await.unwrap();
    let file = OpenOptions::new()
        .write(true)
        .open(folder.path().join("plan-2"))
        .unwrap();
    // As if the crash came between index and end mark.
    file.set_len(6).unwrap();
    let again = LogStore::open(folder.path()).unwrap();
    let position = again.append("plan-1", &me, 5, b" world").unwrap();
    assert_eq!(position.received, 11);
    assert_eq!(
        again.complete("plan-1", &me).await.unwrap().sha256,
        sha256(b"hello world")
    );
    assert_eq!(again.seal("plan-2").await.unwrap(), 7);
    assert_eq!(whole(&again, "plan-2").await, b"\x02hello\x03");
}

#[tokio::test]
async fn appends_become_durable_by_themselves() {
    let (_folder, logs) = store();
    let syncing = logs.clone();
    let task = tokio::spawn(async move { syncing.sync_forever().await });
    let me = writer(1, 1);
    logs.append("plan-1", &me, 0, b"hello").unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    // An append of bytes that are known already only asks for the position.
    while logs.append("plan-1", &me, 0, b"hello").unwrap().durable < 5 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the append did not become durable"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    task.abort();
}
