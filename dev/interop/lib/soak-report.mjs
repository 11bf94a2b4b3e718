// The result of soak.mjs, for a terminal and for docs/interop.md.
import { readFileSync, writeFileSync } from 'node:fs'

const START = '<!-- soak -->\n'
const END = '<!-- end of the soak -->'

const row = (cells) => `| ${cells.join(' | ')} |`
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0)

// Returns the tables of the programs and of the faults, as Markdown.
export function soakReport(programs, { counts }) {
  const present = programs.filter(({ skipped }) => !skipped)
  const heads = ['program', 'version', 'refreshes', 'uses', 'failed uses', 'faults of its requests', 'longest outage']
  const rows = present.map((program) => [
    program.name,
    program.version,
    program.refreshes,
    program.used,
    sum([...program.failed.values()]),
    program.faults,
    `${Math.round(program.longestOutage / 1000)} s`,
  ])
  const faults = [...counts].map(([name, { times, requests }]) => [name, times, requests || ''])
  const text = [
    row(heads), row(heads.map(() => '---')), ...rows.map(row), '',
    row(['fault', 'times', 'requests that it hit']), row(['---', '---', '---']), ...faults.map(row), '',
  ].join('\n')
  const errors = Object.fromEntries(present.map(({ name, failed }) => [name, Object.fromEntries(failed)]))
  return { text, errors }
}

export function replaceSection(path, { date, minutes, text, failures }) {
  const [before, rest] = readFileSync(path, 'utf8').split(START)
  const after = rest.slice(rest.indexOf(END))
  const outcome = failures.length ? `${failures.length} failures` : 'no program asked for a login'
  writeFileSync(path, `${before}${START}Result on ${date}, ${minutes} minutes: ${outcome}.\n\n${text}${after}`)
}
