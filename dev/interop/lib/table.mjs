// The table of the results, for a terminal or for a document.

const heads = ['program', 'version', 'step', 'result']

export function formatTable(rows, { markdown }) {
  const lines = rows.map(({ program, version, tried, result, outcome }) => {
    const text = outcome === 'passed' ? result : `${outcome}: ${result}`
    // A row is one line.
    return [program, version, tried, text.split('\n')[0]]
  })
  if (markdown) {
    const row = (cells) => `| ${cells.join(' | ')} |`
    return [row(heads), '|---|---|---|---|', ...lines.map(row), ''].join('\n')
  }
  const widths = heads.map((head, i) => Math.max(head.length, ...lines.map((line) => line[i].length)))
  const row = (cells) => cells.map((cell, i) => cell.padEnd(widths[i])).join('  ').trimEnd()
  return [heads, widths.map((width) => '-'.repeat(width)), ...lines].map(row).join('\n')
}
