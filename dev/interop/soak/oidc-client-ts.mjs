// oidc-client-ts in the browser: a single-page app with automatic renewal.
import { runPage } from '../lib/page.mjs'
import { announceAs } from '../lib/steps.mjs'

announceAs('oidc-client-ts in Chromium', 'oidc-client-ts')
await runPage({
  name: 'oidc-client-ts',
  library: 'oidc-client-ts/dist/browser/oidc-client-ts.min.js',
  script: 'stay-oidc-client-ts.js',
  html: '<script src="/library.js"></script>',
})
