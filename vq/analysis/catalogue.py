"""Every measurement there is: name, words, unit, definition. ``--fail-if`` knows these names."""

from __future__ import annotations

from dataclasses import dataclass

from vq.analysis.catalogue_intervals import INTERVALS
from vq.analysis.model import Measurement


@dataclass(frozen=True)
class Definition:
    """What a measurement is.

    Attributes:
        label: a few words.
        unit: of the value; "" for shares and plain numbers.
        text: how it is computed.
    """

    label: str
    unit: str
    text: str


def _parse(text: str) -> dict[str, Definition]:
    """Lines ``name | words | unit | definition``; indented lines go on, ``#`` begins a comment."""
    entries: list[str] = []
    for line in text.strip().splitlines():
        if line.startswith("  "):
            entries[-1] += " " + line.strip()
        elif not line.startswith("#"):
            entries.append(line)
    rows = [[part.strip() for part in entry.split("|", 3)] for entry in entries]
    return {name: Definition(label, unit, words) for name, label, unit, words in rows}


CATALOGUE = _parse("""
# use
entries | entries K | entries | values that a code can take
tokens | tokens N | tokens | codes counted; -1 (nothing) is not
tokens_per_entry | tokens for each entry | | N / K
used | used at least once | | share of the K entries that occur among the N tokens; the upper end of the interval
  adds Chao's estimate of entries not seen yet
ceiling | what even use would show | | 1 - exp(-N/K): share expected used if all entries were equally likely
unseen | never seen | | share of the K entries without a token; the lower end leaves out Chao's estimate of those
  that more tokens would show
dead | dead | | share of the K entries without a token where N/K is at least 10: such an entry has a probability
  below 3/N (with 95 % confidence), at most a third of an even share
entropy | entropy of use, plug-in | bits | -sum p log2 p of the shares seen; too low at small N/K
entropy_mm | entropy, Miller-Madow | bits | plug-in plus (S - 1) / 2N nats, S entries seen
entropy_cs | entropy, Chao-Shen | bits | shares lowered by the coverage 1 - f1/N, each weighted by 1 / P(seen), at
  most log2 K (Chao and Shen 2003, equation 9); the interval spans this estimate and Miller-Madow's with their
  sampling errors
perplexity | perplexity, plug-in | entries | 2^entropy: as many entries used evenly have this entropy
perplexity_mm | perplexity, Miller-Madow | entries | 2^entropy_mm
perplexity_cs | perplexity, Chao-Shen | entries | 2^entropy_cs
evenness | entropy as a share of log2 K | | entropy_cs / log2 K: 1 where all entries are used alike
coverage | coverage | | 1 - f1/N (Good and Turing): probability that the next token is an entry seen before
gini | Gini coefficient | | 0 where all K entries are used alike, near 1 where one takes all
top_share | tokens of the top 1 % | | share of the tokens that the 1 % most used entries take
largest | tokens of the top entry | | share of the tokens that the most used entry takes
zipf | Zipf exponent | | s of p_r ~ r^-s over the ranks 1 to K by greatest likelihood: 0 is even use, words of a
  language have about 1
zipf_r2 | Zipf fit, R2 | | squared correlation of log count and log rank
# sequence
pairs | neighbours | pairs | neighbouring codes within an item
pair_types | different pairs | pairs | kinds of neighbouring pairs seen; estimated where types were sampled
conditional_entropy | entropy given the code before | bits | H(pair) - H(code), plug-in; too low where pairs are few
  for the K^2 there could be
conditional_entropy_cs | entropy given the code before, Chao-Shen | bits | the same by Chao and Shen's estimate
neighbour_information | information between neighbours | bits | H(code) - H(code | code before) less the same of
  shuffled codes, on the sampled pieces: what a model of pairs could save
repeats | codes equal to the one before | | share of the neighbouring pairs
repeats_expected | repeats by chance | | sum of p^2 over the entries
run_length | mean run of one code | codes | codes divided by runs, within items
block_entropy_3 | entropy given two codes before | bits | H(3 codes) - H(2 codes) on the sampled pieces, plug-in
block_entropy_4 | entropy given three codes before | bits | H(4 codes) - H(3 codes) on the sampled pieces, plug-in
compressed_bits | bits a code by zlib | bits | size of the sampled codes after zlib (level 9) in two planes of
  bytes, over their number: a check without a model
# geometry
dim | length of a vector | | numbers in a code vector
norm | mean norm | | mean Euclidean length of the code vectors
norm_spread | spread of the norms | | standard deviation over mean of the norms
neighbour_distance | distance to the nearest other entry | | median over entries
neighbour_ratio | nearest distance against even spread | | median nearest distance over the distance of points drawn
  from a Gaussian of the table's mean and covariance: below 1 entries crowd
duplicates | duplicate entries | | share of the entries whose vector equals that of an earlier entry, bit for bit
near_duplicates | near duplicates | | share of the entries closer to another than 1 % of the table's root mean
  square spread (exact duplicates included)
effective_rank | effective rank | | exponential of the entropy of the singular values, mean removed: 1 to dim (Roy
  and Vetterli 2007)
participation | participation ratio | | (sum of eigenvalues)^2 / sum of their squares, of the covariance
intrinsic_dim | intrinsic dimension | | two nearest neighbours: N / sum log(r2/r1), the 10 % largest ratios left out
  (Facco et al. 2017)
anisotropy | mean cosine | | mean cosine between different entries: near 1 where all point one way
second_moment | normalised second moment of cells | | mean squared distance a dimension from an entry within its
  cell, over the cell's volume^(2/dim), bounded cells of sampled entries by rays: cube 0.0833, D4 0.0766, E8 0.0717
second_moment_ball | of a ball | | the lowest there can be in this dimension: Gamma(d/2+1)^(2/d) / ((d+2) pi)
unbounded_cells | unbounded cells | | share of the sampled entries whose cell does not end in some direction
cell_spread | spread of cell volumes | | standard deviation of log2 volume over the bounded cells sampled
mass_by_volume | use goes with volume | | correlation of log2 use and log2 volume over the bounded cells sampled whose
  entry has tokens: below 0 where large cells lie in empty regions, as those of a fitted table do
# rate and distortion
rate | rate | bits | nominal bits a dimension: log2 of the entries of all stages over dim
entropy_rate | entropy rate | bits | bits a dimension after ideal coding of each stage by itself: sum of entropies
  over dim
coded_bits | ideal coded bits | bits | a vector: sum over stages of the entropy of use
mse | mean squared error | | a dimension
snr | signal to noise | dB | variance of the vectors (mean removed) over mean squared error
gap | above Shannon at the nominal rate | dB | 10 log10(MSE / D), D = variance 4^-rate: white Gaussian vectors
gap_entropy | above Shannon at the entropy rate | dB | the same with the entropy rate in place of the nominal one
gap_gaussian | above the Gaussian of this covariance | dB | 10 log10(MSE / D), D by reverse water-filling over the
  eigenvalues of the data's covariance at the nominal rate
margin | margin | | median over vectors of (d2 - d1) / d1, squared distances to the nearest and the second nearest
  entry
near_ties | near ties | | share of the vectors whose second nearest entry is less than 1 % farther
mean_shift | mean of data against entries | | distance of the two means over the root mean square spread of the data
spread_ratio | spread of entries against data | | root mean square spread of the entries (by use) over that of the
  data
# stages
stages | codes a vector | | stages, groups or factors
stage_gain | gain of this stage | dB | signal to noise with it less without it
db_per_bit | gain a bit a dimension | dB | gain of this stage over its bits a dimension; 6.02 is ideal for Gaussian
  vectors
mutual_information | information between codes | bits | mean over pairs of codes of their mutual information less
  that of shuffled codes
largest_information | most information between two codes | bits | largest over the pairs
redundancy | redundancy | | sum of entropies less joint entropy (Chao-Shen, on the sampled pieces), over the sum of
  entropies
# training
steps | steps | | last step of the logs
utilization | utilization | | share of the entries used between the last two reports of training
utilization_lowest | lowest utilization | | least of the reports of the second half of training
utilization_trend | trend of utilization | | last quarter's mean less the second quarter's
training_perplexity | perplexity in training | entries | of the last report
training_rank | effective rank of the features | | of the last report
revived | entries revived | entries | at the last report
drift | drift of the table | | norm of the change between the last two checkpoints over that of the table
churn | churn | | share of vectors (rows of the later table with noise of half the nearest distance) that change
  their entry between the last two checkpoints
loss_change | change of the loss | | mean of the last tenth of the logged losses over that of the tenth before, less
  1
skipped | steps skipped | steps | for values that were not finite
# labels
labelled | labelled tokens | tokens | positions with a label
purity | purity of clusters | | share of the tokens that have the commonest label of their code
purity_chance | purity by chance | | the same after the labels were shuffled
label_purity | purity of labels | | share of the tokens that have the commonest code of their label
pnmi | label information | | PNMI: mutual information of label and code over the entropy of the label, less that of
  shuffled labels
v_measure | V-measure | | harmonic mean of mutual information over the entropy of the labels and over that of the
  codes
modularity | modularity (InfoM) | | each code tells of one factor alone: mean over codes in use of (max NMI / sum
  NMI - 1/F) / (1 - 1/F) over F factors
compactness | compactness (InfoC) | | each factor is told by one code alone: the same over codes for each factor
explicitness | explicitness (InfoE) | | mean over factors of 1 - H(logistic regression) / H(constant), on held-out
  tokens
# compare
matched_cosine | cosine of matched entries | | mean over the pairing of entries with the largest sum of cosines,
  each table's mean removed
matched_distance | distance of matched entries | | root mean square distance of the pairing with the least sum of
  squares, over the first table's root mean square spread
cka | linear CKA | | similarity of the two sets of values for the same positions, or of matched entries (Kornblith
  et al. 2019)
agreement | agreement of codes | | adjusted mutual information of the two code streams: 0 by chance, 1 where each
  tells the other
same_codes | equal codes | | share of the positions where both have the same code
use_divergence | divergence of use | bits | Jensen-Shannon divergence of the use by entries (matched ones where
  tables differ), 0 to 1
snr_change | signal to noise, second less first | dB | on the same vectors
rate_change | rate, second less first | bits | a dimension
# weights
layers | quantized layers | layers | matrices that are packed
weights | quantized weights | weights | in these layers
bits_per_weight | bits per weight | bits | everything quantized layers store, tables of codebooks included, over
  their weights; counted from the files
total_bits_per_weight | bits per weight of the whole model | bits | all tensors over all weights
proxy_error | mean proxy error | | mean over layers of tr(E H E^T) / tr(W H W^T), as the compressor measured it
worst_proxy_error | largest proxy error | | of a layer
layer_error | relative error of the weights | | squared error over squared norm, against the original, over all
  layers
worst_layer_error | largest relative error of a layer | | against the original
channel_spread | spread of channel errors | | largest over median relative error of the output channels, worst layer
kurtosis_before | kurtosis before rotation | | median over layers of the fourth standardised moment of the weights;
  a Gaussian has 3
kurtosis_after | kurtosis after rotation | | the same of rows in the rotated space, each at unit variance
sensitivity_match | errors lie where it matters least | | rank correlation over layers of proxy error and relative
  error of the weights: below 1 where rounding moved error to unimportant directions
sensitivity | layers that carry most of the error | | share of the summed proxy error that the worst tenth of the
  layers has
""")


def measured(
    key: str,
    value: float | int | str | None,
    n: int | None = None,
    interval: tuple[float, float] | None = None,
    note: str = "",
    label: str = "",
) -> Measurement:
    """A measurement of the catalogue.

    Args:
        key: its name.
        value: the number; None where it cannot be had, ``note`` says why.
        n: from how many.
        interval: 95 %; None where it has none, or cannot be had here.
        note: what a reader must know.
        label: in place of the catalogue's.

    Raises:
        KeyError: for a name that is not in the catalogue.
    """
    about = CATALOGUE[key]
    low, high = interval or (None, None)
    name = label or about.label
    return Measurement(key, value, about.unit, name, about.text, n, low, high, note, INTERVALS[key])
