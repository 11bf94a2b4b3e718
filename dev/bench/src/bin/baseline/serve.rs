//! The same endpoints as Matchbook's, made of its components.

use std::sync::Arc;

use actix_web::error::{ErrorBadRequest, ErrorUnauthorized};
use actix_web::http::header::{AUTHORIZATION, USER_AGENT};
use actix_web::web::{self, Data, Form, Json};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use futures_util::future::join;
use jsonwebtoken::Algorithm;
use matchbook_shared::{RefreshRequest, TokenResponse, UserInfo};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::key::{Claims, ISSUER, Key};
use crate::queue::RotationQueue;
use crate::rotation::{ACCESS_LIFETIME, Rotation};

/// Options of `serve`.
#[derive(Args)]
pub(crate) struct Options {
    /// URL of the PostgreSQL database.
    #[arg(long)]
    database: String,
    /// URL of Redis.
    #[arg(long)]
    redis: String,
    /// `RS256`, `ES256` or `EdDSA`.
    #[arg(long)]
    algorithm: Algorithm,
    /// Number of worker threads.
    #[arg(long)]
    workers: usize,
    /// Number of threads that execute batches.
    #[arg(long, default_value_t = 1)]
    shards: usize,
}

/// The components of a worker.
struct Parts {
    key: Arc<Key>,
    redis: MultiplexedConnection,
    batched: RotationQueue,
    single: RotationQueue,
    fixed: Claims,
}

/// Serves until the process is stopped.
pub(crate) async fn serve(options: Options) -> std::io::Result<()> {
    let key = Arc::new(Key::generate(options.algorithm));
    let redis = redis::Client::open(options.redis).unwrap();
    let batched = RotationQueue::batched(&options.database, options.shards);
    // The size of Matchbook's pool.
    let single = RotationQueue::single(&options.database, (2 * options.workers).max(4));
    let server = HttpServer::new(move || {
        let key = key.clone();
        let redis = redis.clone();
        let batched = batched.clone();
        let single = single.clone();
        let parts = move || {
            let key = key.clone();
            let redis = redis.clone();
            let batched = batched.clone();
            let single = single.clone();
            async move {
                let config = AsyncConnectionConfig::new().set_response_timeout(None);
                let redis = redis.get_multiplexed_async_connection_with_config(&config).await?;
                let fixed = claims(Uuid::max(), Uuid::max(), Uuid::max(), 1_800_000_000);
                redis::RedisResult::Ok(Parts { key, redis, batched, single, fixed })
            }
        };
        App::new()
            .data_factory(parts)
            .route("/empty", web::get().to(empty))
            .route("/mget", web::get().to(mget))
            .route("/sign", web::get().to(sign))
            .route("/user", web::get().to(user))
            .route("/cached", web::get().to(cached))
            .route("/refresh", web::post().to(refresh))
            .route("/single", web::post().to(single_refresh))
    });
    let server = server.workers(options.workers).bind("127.0.0.1:0")?;
    println!("baseline listens on http://{}", server.addrs()[0]);
    server.run().await
}

async fn empty() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body("{}")
}

async fn mget(parts: Data<Parts>) -> HttpResponse {
    check_status(&parts, &parts.fixed).await;
    empty().await
}

async fn sign(parts: Data<Parts>) -> String {
    parts.key.sign(&parts.fixed)
}

async fn user(parts: Data<Parts>, request: HttpRequest) -> actix_web::Result<Json<UserInfo>> {
    let now = now();
    let bearer = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let token = bearer.and_then(|bearer| bearer.strip_prefix("Bearer "));
    let claims = token.and_then(|token| parts.key.verify(token, now.unix_timestamp()));
    let claims = claims.ok_or_else(|| ErrorUnauthorized("not a token of this process"))?;
    check_status(&parts, &claims).await;
    Ok(user_info(&claims, now))
}

async fn cached(parts: Data<Parts>) -> Json<UserInfo> {
    let now = now();
    check_status(&parts, &parts.fixed).await;
    user_info(&parts.fixed, now)
}

async fn refresh(
    parts: Data<Parts>,
    form: Form<RefreshRequest>,
    request: HttpRequest,
) -> actix_web::Result<Json<TokenResponse>> {
    rotate(&parts, &parts.batched, form.into_inner(), &request).await
}

async fn single_refresh(
    parts: Data<Parts>,
    form: Form<RefreshRequest>,
    request: HttpRequest,
) -> actix_web::Result<Json<TokenResponse>> {
    rotate(&parts, &parts.single, form.into_inner(), &request).await
}

async fn rotate(
    parts: &Parts,
    queue: &RotationQueue,
    form: RefreshRequest,
    request: &HttpRequest,
) -> actix_web::Result<Json<TokenResponse>> {
    let refresh_token = form.refresh_token.unwrap_or_default();
    let session = session(&refresh_token).ok_or_else(|| ErrorBadRequest("not a token"))?;
    let agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    let now = now();
    let micros = i64::try_from(now.unix_timestamp_nanos() / 1000).unwrap();
    let rotation = Rotation::new(session, micros, agent.map(str::to_owned));
    let access = rotation.access;
    let rotated = queue.rotate(rotation).await;
    let (_, user, _) = rotated.ok_or_else(|| ErrorBadRequest("no such session"))?;
    let claims = claims(user, access, session, now.unix_timestamp());
    let mut redis = parts.redis.clone();
    let mut set = redis::cmd("SET");
    set.arg(access_key(&claims)).arg(1).arg("EX").arg(ACCESS_LIFETIME);
    // The command is sent before the token is signed.
    let (stored, token) = join(set.exec_async(&mut redis), async { parts.key.sign(&claims) }).await;
    stored.unwrap();
    Ok(Json(TokenResponse { token, refresh_token, expires_in: ACCESS_LIFETIME.unsigned_abs() }))
}

/// Returns the session of a refresh token: `mb_rt_` and base64url of version 1 ‖ session id
/// 16 ‖ rest.
fn session(refresh_token: &str) -> Option<Uuid> {
    let bytes = URL_SAFE_NO_PAD.decode(refresh_token.strip_prefix("mb_rt_")?).ok()?;
    Uuid::from_slice(bytes.get(1..17)?).ok()
}

async fn check_status(parts: &Parts, claims: &Claims) {
    let mut command = redis::cmd("MGET");
    command.arg(format!("ended:{{{}}}", claims.sid)).arg(access_key(claims));
    let mut redis = parts.redis.clone();
    let found: redis::RedisResult<(Option<u8>, Option<u8>)> = command.query_async(&mut redis).await;
    found.unwrap();
}

fn access_key(claims: &Claims) -> String {
    format!("access:{{{}}}:{}", claims.sid, claims.jti)
}

fn claims(user: Uuid, access: Uuid, session: Uuid, now: i64) -> Claims {
    Claims {
        iss: ISSUER.to_owned(),
        aud: ISSUER.to_owned(),
        sub: user,
        client_id: "matchbook".to_owned(),
        iat: now,
        exp: now + ACCESS_LIFETIME,
        jti: access,
        sid: session,
    }
}

fn user_info(claims: &Claims, now: OffsetDateTime) -> Json<UserInfo> {
    let expires_at = OffsetDateTime::from_unix_timestamp(claims.exp).unwrap();
    Json(UserInfo { user_id: claims.sub, now, expires_at, name: None, email_verified: None })
}

#[expect(clippy::disallowed_methods, reason = "tokens expire by wall clock time")]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
