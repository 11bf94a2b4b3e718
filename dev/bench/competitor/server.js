// A token server of somebody else's to compare with: oidc-provider, which
// rotates refresh tokens and signs access tokens as JWTs, with all that it keeps
// in its memory. `node server.js --algorithm RS256|ES256 [--port P]`
//
// `GET /seed?count=N` answers refresh tokens of new sessions. Those with `&openid`
// are of OpenID logins, which is what it is made for: each refresh signs an ID token
// beside the access token.

import { generateKeyPairSync } from 'node:crypto';
import http from 'node:http';
import { parseArgs } from 'node:util';

// It has no other way to be told than to be silenced.
console.info = () => {};
console.warn = () => {};

const { default: Provider } = await import('oidc-provider');
const { setStorage } = await import('oidc-provider/lib/adapters/memory_adapter.js');
const { default: QuickLRU } = await import('quick-lru');

const CLIENT = { id: 'bench', secret: 'bench-secret' };
const API = 'https://api.example';
// Tokens and grants that are kept at least, of which those in use are the
// newest. Its own memory ends at 1000, which many sessions outgrow.
const KEPT = 1_000_000;

const { values } = parseArgs({
  options: { algorithm: { type: 'string' }, port: { type: 'string', default: '0' } },
});
const pair = {
  RS256: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ES256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
}[values.algorithm]();
const jwk = { ...pair.privateKey.export({ format: 'jwk' }), alg: values.algorithm, use: 'sig' };
setStorage(new QuickLRU({ maxSize: KEPT }));

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

  const signIn = async (client, accountId, oidcScope) => {
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
      tokens.push(await signIn(client, `user-${n}`, oidcScope));
    }
    response.end(`${tokens.join('\n')}\n`);
  };
  const answer = provider.callback();
  server.on('request', (request, response) => {
    const { pathname, searchParams } = new URL(request.url, origin);
    if (pathname === '/seed') {
      seed(Number(searchParams.get('count')), searchParams.has('openid'), response);
    } else {
      answer(request, response);
    }
  });
  console.log(`peer listens on ${origin}`);
});
