// SPDX-License-Identifier: Apache-2.0
// Exact attention over a whole bacterial genome, 4.9 million keys, sharded over a ring: a head that was never trained
// finds copies of a sequence wherever they are, which no window does.
//
//   genome_recall                        E. coli (Debian's bowtie-examples), about a minute
//   genome_recall --genome my.fna.gz --seconds 300 --ranks 4
//
// The head predicts base i from the k bases before it: the query is a +-1 code of those k bases, key j the code of the
// k bases before j, value j the base at j itself. Equal k-mers score head_dim, others about 0, so that softmax reads
// out what followed the same k bases earlier: an induction head by construction. Asked are positions in exact repeats
// of 64 bases or more whose last copy is further back than the window, found by hashing; so every answer is known.
#include <array>
#include <cmath>
#include <cstring>
#include <ringattn/ringattn.hpp>
#include <utility>

#include "support/genome.hpp"
#include "support/progress.hpp"

namespace {

using namespace ringattn;

/// Query q stands at position[q] of the genome (ascending) and sees the `reach` keys before it.
struct EarlierBases {
  int64_t const* position = nullptr;
  int64_t reach = 0;

  bool visible(int64_t q, int64_t k) const { return k < position[q] && k >= position[q] - reach; }
  Coverage coverage(Rows q, Rows k) const {
    int64_t const first = position[q.first], last = position[q.last()];
    if (k.first >= last || k.last() < first - reach) return Coverage::none;
    return k.last() < first && k.first >= last - reach ? Coverage::full : Coverage::partial;
  }
  std::uint64_t fingerprint() const { return fingerprint_of("earlier bases", reach, position[0]); }
};

struct InductionHead : Policy {
  using Precision = Bf16;  // +-1 and 0 and 1 are exact in it
  using Mask = EarlierBases;
  using Shard = Striped;  // neighbours see nearly the same keys: the same work for every rank in every step
  static constexpr int head_dim = 32;
  static constexpr int value_dim = 8;  // four bases, padded
};

/// The k-mer as 32 signs: by chance one other k-mer in 2^32 has the same.
void encode(std::uint64_t kmer, View<BFloat16> const& t, int64_t row) {
  std::uint64_t z = (kmer + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  bool const known = kmer != ~std::uint64_t(0);
  for (int d = 0; d < InductionHead::head_dim; ++d)
    t(0, row, 0, d) = BFloat16(!known ? 0.f : (z >> d) & 1 ? 1.f : -1.f);
}

/// A score is scale * (32 - 2 * differing signs): one wrong sign already costs 8 nats, while ln(4.9 million) = 15.4
/// and only one key in 10^8 is as near as that.
constexpr double scale = 4;

struct Tally {
  int64_t asked = 0, right = 0, found = 0, as_counted = 0;
  double seconds = 0, pairs = 0;
};

/// The ring's ranks with their share of the genome; lives as long as the program.
class Reader {
 public:
  Reader(example::Genome const& genome, int k, int ranks, int threads)
      : genome_(genome), context_(example::contexts(genome, k)), counts_(genome, context_), ranks_(ranks) {
    for (int r = 0; r < ranks; ++r) {
      auto const runs = Striped{}.rows(Ring{r, ranks}, bases());
      Extents e{1, count_rows(runs), 1, InductionHead::head_dim};
      Rank& rank = rank_.emplace_back(Rank{std::make_unique<Cpu>(Cpu::Options{.threads = threads}), Tensor<BFloat16>(e),
                                           Tensor<BFloat16>({1, e.seq, 1, InductionHead::value_dim})});
      int64_t row = 0;
      for (Rows const& run : runs)
        for (int64_t i = 0; i < run.count; ++i, ++row) {
          encode(context_[size_t(run.at(i))], rank.k, row);
          rank.v(0, row, 0, genome[size_t(run.at(i))]) = BFloat16(1.f);
        }
    }
  }

  int64_t bases() const { return int64_t(genome_.size()); }

  /// Of these positions, how many a count of what followed the same k bases earlier gets right: the bound for the head.
  int64_t right_by_counting(std::vector<int64_t> const& position) const {
    int64_t right = 0;
    for (int64_t at : position) {
      auto const counted = counts_.of(at, 0);
      right += std::max_element(counted.begin(), counted.end()) - counted.begin() == genome_[size_t(at)];
    }
    return right;
  }

  /// Asks for the bases at `position` (ascending) from the `reach` bases before each.
  void ask(std::vector<int64_t> const& position, int64_t reach, Tally& tally) {
    auto const start = std::chrono::steady_clock::now();
    EarlierBases const mask{position.data(), reach};
    Problem const problem{.seq = int64_t(position.size()), .kv_seq = bases()};
    std::vector<std::array<float, 4>> answer(position.size());
    std::vector<float> lse(position.size());
    run_ranks(
        ranks_,
        [&](InProcess& comm) {
          Rank& rank = rank_[size_t(comm.rank())];
          RingAttention<InductionHead> ring(*rank.cpu, comm,
                                            {.problem = problem, .mask = mask, .scale = scale, .backward = false});
          Local const local = ring.local();
          Tensor<BFloat16> q(local.q), out(local.out);
          Tensor<float> mine(local.lse);
          for_rows(ring.rows(), [&](int64_t row, int64_t i) { encode(context_[size_t(position[size_t(i)])], q, row); });
          ring.forward({.q = q, .k = rank.k, .v = rank.v, .out = out, .lse = mine});
          for_rows(ring.rows(), [&](int64_t row, int64_t i) {
            for (int b = 0; b < 4; ++b) answer[size_t(i)][size_t(b)] = float(out(0, row, 0, b));
            lse[size_t(i)] = mine(0, row, 0, 0);
          });
        },
        RunOptions{.deadline = std::chrono::minutes(10)});
    tally.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

    for (size_t i = 0; i < position.size(); ++i) {
      int64_t const at = position[i];
      auto const& a = answer[i];
      auto const counted = counts_.of(at, at - reach);
      double const copies = counted[0] + counted[1] + counted[2] + counted[3];
      double difference = 0;
      for (size_t b = 0; b < 4; ++b)
        difference = std::max(difference, std::abs(double(a[b]) - (copies > 0 ? counted[b] / copies : a[b])));
      ++tally.asked;
      tally.right += std::max_element(a.begin(), a.end()) - a.begin() == genome_[size_t(at)];
      tally.found += lse[i] > scale * (InductionHead::head_dim - 1);  // a key with every sign right was seen
      tally.as_counted += copies > 0 && difference < 0.02;
      tally.pairs += double(std::min(reach, at));
    }
  }

 private:
  struct Rank {
    std::unique_ptr<Cpu> cpu;
    Tensor<BFloat16> k, v;
  };
  template <class F> static void for_rows(std::span<Rows const> runs, F f) {
    int64_t row = 0;
    for (Rows const& run : runs)
      for (int64_t i = 0; i < run.count; ++i, ++row) f(row, run.at(i));
  }

  example::Genome const& genome_;
  std::vector<std::uint64_t> context_;
  example::Counts counts_;
  int ranks_;
  std::vector<Rank> rank_;
};

void print(char const* name, Tally const& t) {
  auto const percent = [&](int64_t n) { return 100 * double(n) / double(t.asked); };
  std::printf("%-22s %12.0f %14.2f %% %14.2f %% %14.2f %% %9.1f %10.2f\n", name, t.pairs / double(t.asked),
              percent(t.right), percent(t.found), percent(t.as_counted), t.seconds, t.pairs / t.seconds * 1e-9);
}

struct Arguments {
  std::string genome = "/usr/share/doc/bowtie/examples/genomes/NC_008253.fna.gz";
  int64_t synthetic = 0, window = 131072, queries = 1'000'000'000;
  double seconds = 60;
  int k = 16, ranks = 2, threads = std::max(1, int(std::thread::hardware_concurrency()) / 2);
};

Arguments read(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    auto const is = [&](char const* name) { return std::strcmp(argv[i], name) == 0 && i + 1 < argc; };
    if (is("--genome"))
      a.genome = argv[++i];
    else if (is("--synthetic"))
      a.synthetic = std::atoll(argv[++i]);
    else if (is("--window"))
      a.window = std::atoll(argv[++i]);
    else if (is("--queries"))
      a.queries = std::atoll(argv[++i]);
    else if (is("--seconds"))
      a.seconds = std::atof(argv[++i]);
    else if (is("--k"))
      a.k = std::clamp(std::atoi(argv[++i]), 1, 31);
    else if (is("--ranks"))
      a.ranks = std::max(1, std::atoi(argv[++i]));
    else if (is("--threads"))
      a.threads = std::max(1, std::atoi(argv[++i]));
    else {
      std::fprintf(stderr,
                   "usage: genome_recall [--genome FASTA] [--seconds 60] [--queries N] [--k 16] [--window 131072]\n"
                   "                     [--ranks 2] [--threads PER_RANK] [--synthetic BASES]\n");
      std::exit(2);
    }
  }
  return a;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments const a = read(argc, argv);
  try {
    if (a.synthetic == 0 && !std::ifstream(a.genome)) {
      std::fprintf(stderr, "%s is not there: apt install bowtie-examples, or --genome FASTA, or --synthetic 1000000\n",
                   a.genome.c_str());
      return 77;
    }
    example::Genome const genome =
        a.synthetic > 0 ? example::synthetic_genome(a.synthetic) : example::read_fasta(a.genome);
    std::vector<int64_t> asked = example::far_repeats(genome, a.window);
    std::printf("%zu bases; %zu positions in exact repeats of >= 64 bases, the last copy more than %lld bases back\n",
                genome.size(), asked.size(), static_cast<long long>(a.window));
    if (asked.empty()) return 1;
    // In random order, so that the part that time allows for stands for the whole.
    std::shuffle(asked.begin(), asked.end(), std::mt19937_64(7));
    asked.resize(std::min(asked.size(), size_t(a.queries)));

    Reader reader(genome, a.k, a.ranks, a.threads);
    std::printf("counting with an index of %d-mers is right on %.2f %% of them\n", a.k,
                100 * double(reader.right_by_counting(asked)) / double(asked.size()));
    Tally whole, window;
    size_t done = 0;
    {
      example::Progress bar("asking", 1);
      for (size_t chunk = 256; done < asked.size() && whole.seconds < a.seconds;) {
        std::vector<int64_t> some(asked.begin() + int64_t(done),
                                  asked.begin() + int64_t(std::min(asked.size(), done + chunk)));
        std::sort(some.begin(), some.end());
        reader.ask(some, reader.bases(), whole);
        done += some.size();
        // About eight looks at the clock; large chunks are faster, since the keys go round once for each.
        double const time = std::min(a.seconds / 8, a.seconds - whole.seconds);
        chunk = size_t(std::clamp(double(done) / whole.seconds * time, 256.0, 4096.0));
        char text[64];
        std::snprintf(text, sizeof text, "%zu asked, recall %.2f %%", done, 100 * double(whole.right) / double(done));
        bar.update(std::max(double(done) / double(asked.size()), whole.seconds / a.seconds), text);
      }
    }
    asked.resize(done);
    std::sort(asked.begin(), asked.end());
    reader.ask(asked, a.window, window);
    std::printf("%lld of them asked, k = %d, %d ranks x %d threads, bf16\n\n", static_cast<long long>(whole.asked), a.k,
                a.ranks, a.threads);
    std::printf("%-22s %12s %16s %16s %16s %9s %10s\n", "attention over", "keys/query", "next base right",
                "a copy seen", "as counted", "seconds", "Gpairs/s");
    print("the whole genome", whole);
    print(("the last " + std::to_string(a.window)).c_str(), window);
    std::printf(
        "\n'as counted': the output is, within 0.02, the distribution of what followed the same %d bases\n"
        "before, counted with an index. Guessing gives 25 %%.\n",
        a.k);
    return double(whole.right) >= 0.99 * double(whole.asked) ? 0 : 1;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
