// oauth4webapi in the browser: a single-page app, whose requests are cross-origin (CORS).
import { runPage } from '../lib/page.mjs'
import { announceAs } from '../lib/steps.mjs'

announceAs('oauth4webapi in Chromium', 'oauth4webapi')
await runPage({
  name: 'oauth4webapi-page',
  library: 'oauth4webapi/build/index.js',
  script: 'stay-oauth4webapi.js',
  html: '<script type="importmap">{"imports":{"oauth4webapi":"/library.js"}}</script>',
})
