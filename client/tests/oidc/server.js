// A third-party server with rotating refresh tokens. It prints where it
// listens and the tokens of two logins, as one line of JSON.

import http from 'node:http';
import Provider from 'oidc-provider';

const CLIENT = { id: 'an-app', secret: 'a secret of the test: 100% & more' };
const SCOPE = 'openid offline_access';

const server = http.createServer();
server.listen(0, '127.0.0.1', async () => {
  const origin = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(origin, {
    clients: [
      {
        client_id: CLIENT.id,
        client_secret: CLIENT.secret,
        grant_types: ['authorization_code', 'refresh_token'],
        redirect_uris: ['https://app.example/back'],
        token_endpoint_auth_method: process.env.AUTH_METHOD,
      },
    ],
    features: { devInteractions: { enabled: false }, revocation: { enabled: true } },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    rotateRefreshToken: true,
    ttl: { AccessToken: 60 },
  });
  server.on('request', provider.callback());

  const client = await provider.Client.find(CLIENT.id);
  const signIn = async (accountId) => {
    const grant = new provider.Grant({ accountId, clientId: CLIENT.id });
    grant.addOIDCScope(SCOPE);
    const refreshToken = new provider.RefreshToken({
      accountId,
      client,
      grantId: await grant.save(),
      gty: 'authorization_code',
      scope: SCOPE,
    });
    return refreshToken.save();
  };
  console.log(
    JSON.stringify({
      origin,
      clientId: CLIENT.id,
      clientSecret: CLIENT.secret,
      refreshTokens: [await signIn('alice'), await signIn('bob')],
    }),
  );
});
