//! Routes that can be listed: what is served is known, so that a test can ask every route as everybody.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodRouter, on};

use crate::app::App;

/// The methods of one path, with their handlers.
pub struct Methods {
    router: MethodRouter<App>,
    methods: Vec<Method>,
}

impl std::fmt::Debug for Methods {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?}", self.methods)
    }
}

macro_rules! methods {
    ($($name:ident = $method:ident;)*) => {
        $(
            #[doc = concat!("A path's handler of ", stringify!($method), ".")]
            pub fn $name<H, T>(handler: H) -> Methods
            where
                H: Handler<T, App>,
                T: 'static,
            {
                Methods { router: MethodRouter::new(), methods: Vec::new() }.$name(handler)
            }
        )*

        impl Methods {
            $(
                #[doc = concat!("Also handles ", stringify!($method), ".")]
                #[must_use]
                pub fn $name<H, T>(mut self, handler: H) -> Self
                where
                    H: Handler<T, App>,
                    T: 'static,
                {
                    self.router = self.router.merge(on(axum::routing::MethodFilter::$method, handler));
                    self.methods.push(Method::$method);
                    self
                }
            )*
        }
    };
}

methods! {
    get = GET;
    post = POST;
    put = PUT;
    patch = PATCH;
    delete = DELETE;
}

impl Methods {
    /// With something around the handlers.
    #[must_use]
    pub fn around(mut self, wrap: impl FnOnce(MethodRouter<App>) -> MethodRouter<App>) -> Self {
        self.router = wrap(self.router);
        self
    }
}

/// A route that is served.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The path, with its parameters in braces.
    pub path: String,
    /// The method.
    pub method: String,
}

/// Routes, and what they are.
#[derive(Debug, Default)]
pub struct Routes {
    router: Router<App>,
    list: Vec<Route>,
}

impl Routes {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// And a path.
    #[must_use]
    pub fn route(mut self, path: &str, methods: Methods) -> Self {
        self.list.extend(methods.methods.iter().map(|method| Route {
            path: path.to_owned(),
            method: method.to_string(),
        }));
        self.router = self.router.route(path, methods.router);
        self
    }

    /// And others.
    #[must_use]
    pub fn merge(mut self, others: Self) -> Self {
        self.router = self.router.merge(others.router);
        self.list.extend(others.list);
        self
    }

    /// All of them below a prefix.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        self.router = Router::new().nest(prefix, self.router);
        for route in &mut self.list {
            route.path.insert_str(0, prefix);
        }
        self
    }

    /// With something around them: layers, fallbacks.
    #[must_use]
    pub fn around(mut self, wrap: impl FnOnce(Router<App>) -> Router<App>) -> Self {
        self.router = wrap(self.router);
        self
    }

    /// What they are, by path.
    pub fn list(&self) -> Vec<Route> {
        let mut list = self.list.clone();
        list.sort();
        list
    }

    /// The router.
    pub fn into_router(self) -> Router<App> {
        self.router
    }
}
