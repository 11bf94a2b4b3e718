//! The table of the resources: path, methods and routes of each.

use std::future::ready;

use actix_web::{Resource, Route, guard, web};

use super::error::Error;

/// A path, its methods and its routes.
pub(super) struct Endpoint {
    path: &'static str,
    methods: &'static str,
    resource: Resource,
}

/// Returns a path that rejects other methods than `methods`.
pub(super) fn resource(path: &'static str, methods: &'static str, route: Route) -> Endpoint {
    let resource = web::resource(path)
        .route(route)
        .default_service(web::to(move || ready(Err::<(), _>(Error::MethodNotAllowed(methods)))));
    Endpoint { path, methods, resource }
}

/// Returns a route for `GET` and `HEAD`.
pub(super) fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

impl Endpoint {
    pub(super) fn route(self, route: Route) -> Self {
        Self { resource: self.resource.route(route), ..self }
    }

    pub(super) fn app_data<T: 'static>(self, data: T) -> Self {
        Self { resource: self.resource.app_data(data), ..self }
    }
}

/// The endpoints in the order in which actix looks for a match.
#[derive(Default)]
pub(super) struct Endpoints(Vec<Endpoint>);

impl Endpoints {
    pub(super) fn service(&mut self, endpoint: Endpoint) -> &mut Self {
        self.0.push(endpoint);
        self
    }

    pub(super) fn configure(&mut self, add: fn(&mut Self)) -> &mut Self {
        add(self);
        self
    }

    /// Adds the routes to the server.
    pub(super) fn register(self, service: &mut web::ServiceConfig) {
        for endpoint in self.0 {
            service.service(endpoint.resource);
        }
    }

    /// Returns the path and the methods of each endpoint.
    pub(super) fn paths(&self) -> impl Iterator<Item = (String, Vec<&'static str>)> {
        let methods = |endpoint: &Endpoint| endpoint.methods.split(", ").collect();
        self.0.iter().map(move |endpoint| (template(endpoint.path), methods(endpoint)))
    }
}

/// Returns a path with the names of its parts alone: `/{path}` for `/{path:.*}`.
fn template(path: &str) -> String {
    let mut parts = path.split('{');
    let mut template = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').unwrap_or((part, ""));
        let name = variable.split(':').next().unwrap_or_default();
        template.extend(["{", name, "}", rest]);
    }
    template
}

#[cfg(test)]
mod tests {
    use super::template;

    #[test]
    fn a_template_names_the_parts_of_a_path_without_their_expressions() {
        assert_eq!(template("/user"), "/user");
        assert_eq!(template("/sessions/{id}"), "/sessions/{id}");
        assert_eq!(template("/a/{first}/b/{rest:.*}"), "/a/{first}/b/{rest}");
    }
}
