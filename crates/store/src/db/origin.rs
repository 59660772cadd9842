//! The request that a write is made for. The audit log names it; whoever writes an entry need not know it.

use std::future::Future;
use std::sync::Arc;

/// A request to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its id, as its answer and the program's log name it.
    pub request_id: String,
    /// The address that its connection came from; none where it came by no connection.
    pub address: Option<String>,
}

tokio::task_local! {
    static ORIGIN: Arc<Origin>;
}

/// Does work whose writes are made for a request.
pub async fn within<F: Future>(origin: Origin, work: F) -> F::Output {
    ORIGIN.scope(Arc::new(origin), work).await
}

/// The same work for a task of its own: its writes are made for the request that this is called in, if there is one.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let origin = current();
    async move {
        match origin {
            Some(origin) => ORIGIN.scope(origin, work).await,
            None => work.await,
        }
    }
}

/// The request that is worked on now.
pub(super) fn current() -> Option<Arc<Origin>> {
    ORIGIN.try_with(Arc::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_of_its_own_works_for_the_request_that_started_it() {
        let origin = Origin {
            request_id: "1f".to_owned(),
            address: None,
        };
        assert_eq!(current(), None);
        let (here, lost, carried) = within(origin.clone(), async {
            let lost = tokio::spawn(async { current() }).await.unwrap();
            let carried = tokio::spawn(carried(async { current() })).await.unwrap();
            (current(), lost, carried)
        })
        .await;
        assert_eq!(here.as_deref(), Some(&origin));
        assert_eq!(carried.as_deref(), Some(&origin));
        assert_eq!(lost, None);
    }
}
