/* The order of what a search finds: first the chapters, which explain, then the reference, which lists. Who types a name of
   the package (MeanFieldGaussian, check_unbiased, vilib.advi) wants the reference. Sphinx puts this into its searchtools.js. */
var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
  score: ([page, , , , score]) => {
    const asked = new URLSearchParams(location.search).get("q") ?? "";
    const later = /^(reference\/|chapters\/(class|coverage|how-to|notation)$)/.test(page);
    return later && !/[._]|[a-z][A-Z]/.test(asked) ? score - 1000 : score;
  },
};
