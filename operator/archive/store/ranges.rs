//! Servers that answer a range with the status of a whole object: their answer gets the right status.

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// The usual connector, with this correction: `rclone serve s3` needs it.
#[derive(Debug, Default)]
pub(crate) struct Ranges(ReqwestConnector);

impl HttpConnector for Ranges {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Corrected(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct Corrected(HttpClient);

#[async_trait]
impl HttpService for Corrected {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let wanted = request.headers().contains_key("range");
        let mut response = self.0.execute(request).await?;
        let is_range = wanted && response.headers().contains_key("content-range");
        if let (true, 200, Ok(partial)) = (is_range, response.status().as_u16(), 206_u16.try_into()) {
            *response.status_mut() = partial;
        }
        Ok(response)
    }
}
