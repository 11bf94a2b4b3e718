// Another token server for comparison: oidc-provider, which rotates refresh tokens, signs
// access tokens as JWTs, and keeps its state in memory.
// `node server.js --algorithm RS256|ES256 [--port P]`
//
// `GET /seed?count=N` returns refresh tokens of new sessions. With `&openid` they are of
// OpenID logins: each refresh also signs an ID token.

import { generateKeyPairSync } from 'node:crypto';
import http from 'node:http';
import { parseArgs } from 'node:util';

// oidc-provider has no option to disable its log.
console.info = () => {};
console.warn = () => {};

const { default: Provider } = await import('oidc-provider');
const { setStorage } = await import('oidc-provider/lib/adapters/memory_adapter.js');
const { default: QuickLRU } = await import('quick-lru');

const CLIENT = { id: 'bench', secret: 'bench-secret' };
const API = 'https://api.example';
// Minimum number of stored tokens and grants. The default adapter keeps 1000, too few for
// many sessions.
const MAX_STORED = 1_000_000;

const { values } = parseArgs({
  options: { algorithm: { type: 'string' }, port: { type: 'string', default: '0' } },
});
const pair = {
  RS256: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ES256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
}[values.algorithm]();
const jwk = { ...pair.privateKey.export({ format: 'jwk' }), alg: values.algorithm, use: 'sig' };
setStorage(new QuickLRU({ maxSize: MAX_STORED }));

const server = http.createServer();
server.listen(Number(values.port), '127.0.0.1', () => {
  const origin = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(origin, {
    jwks: { keys: [jwk] },
    cookies: { keys: ['not used here'] },
    clients: [
      {
        client_id: CLIENT.id,
        client_secret: CLIENT.secret,
        token_endpoint_auth_method: 'client_secret_post',
        id_token_signed_response_alg: values.algorithm,
        grant_types: ['authorization_code', 'refresh_token'],
        redirect_uris: ['https://app.example/back'],
      },
    ],
    scopes: ['openid', 'offline_access'],
    features: {
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => API,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: 'api',
          audience: API,
          accessTokenFormat: 'jwt',
          accessTokenTTL: 15 * 60,
          jwt: { sign: { alg: values.algorithm } },
        }),
      },
    },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    rotateRefreshToken: true,
    ttl: { RefreshToken: 30 * 24 * 60 * 60, Grant: 90 * 24 * 60 * 60 },
  });

  const logIn = async (client, accountId, oidcScope) => {
    const grant = new provider.Grant({ accountId, clientId: CLIENT.id });
    grant.addOIDCScope(oidcScope);
    grant.addResourceScope(API, 'api');
    const refreshToken = new provider.RefreshToken({
      accountId,
      client,
      grantId: await grant.save(),
      gty: 'authorization_code',
      resource: API,
      scope: `${oidcScope} api`,
    });
    return refreshToken.save();
  };
  const seed = async (count, openid, response) => {
    const client = await provider.Client.find(CLIENT.id);
    const oidcScope = openid ? 'openid offline_access' : 'offline_access';
    const tokens = [];
    for (let n = 0; n < count; n += 1) {
      tokens.push(await logIn(client, `user-${n}`, oidcScope));
    }
    response.end(`${tokens.join('\n')}\n`);
  };
  const handle = provider.callback();
  server.on('request', (request, response) => {
    const { pathname, searchParams } = new URL(request.url, origin);
    if (pathname === '/seed') {
      seed(Number(searchParams.get('count')), searchParams.has('openid'), response);
    } else {
      handle(request, response);
    }
  });
  console.log(`competitor listens on ${origin}`);
});
