// SPDX-License-Identifier: Apache-2.0
// Trains a decoder over bytes on long windows of real text, sharded along the sequence over a ring of ranks: threads of
// this process, or processes of an MPI job. Ends with the same training on rings of 1, 2, 4 and 8, and two plots.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <mutex>
#include <string>

#include "support/arguments.hpp"
#include "support/blas_threads.hpp"
#include "support/svg.hpp"
#include "support/training_run.hpp"

namespace {

using namespace example;

struct Choices {
  int64_t ranks = 0, table_steps = 3;
  std::string comm = "inprocess", precision = "fp32", data, out = ".";
};

void print_rows(RunPlan const& plan, std::vector<RingRow> const& rows) {
  std::printf("\nThe first steps of this training again, %lld bytes at a time; bytes per rank:\n\n",
              static_cast<long long>(plan.model.batch * plan.model.seq));
  std::printf("| ranks | activations + workspace | of one rank's | weights + optimiser | loss, bits/byte | s/step |\n");
  std::printf("|------:|------------------------:|--------------:|--------------------:|----------------:|-------:|\n");
  for (RingRow const& r : rows)
    std::printf("| %5d | %19.2f MiB | %13.3f | %15.2f MiB | %15.9f | %6.3f |\n", r.ranks,
                double(r.activations) / 1048576, double(r.activations) / double(rows.front().activations),
                double(r.weights) / 1048576, r.loss, r.seconds_per_step);
  if (rows.size() > 1)
    std::printf(
        "\nOne rank alone needs no buffers for blocks that travel; from two on, bytes are a constant for one block's\n"
        "scratch, and a part that halves.\n");
}

void plot(Choices const& c, RunPlan const& plan, Curve const& curve, std::vector<RingRow> const& rows) {
  std::string const path = c.out + "/";
  std::string const note = std::to_string(plan.model.seq) + " bytes of context, " + std::to_string(plan.model.layers) +
                           " layers of width " + std::to_string(plan.model.width) + ", " + c.precision;
  Plot("Training on a ring", {.label = "step"}, {.label = "bits per byte"})
      .line("train", curve.train)
      .line("held out", curve.held_out, {.markers = true})
      .note(note)
      .write(path + "loss.svg");
  std::printf("\nwrote %sloss.svg", path.c_str());
  if (rows.size() > 1) {
    std::vector<std::string> names;
    std::vector<double> bytes, weights;
    for (RingRow const& r : rows) {
      names.push_back(std::to_string(r.ranks));
      bytes.push_back(double(r.activations));
      weights.push_back(double(r.weights));
    }
    Plot("Bytes per rank", {.label = "ranks"}, {.label = "bytes", .bytes = true})
        .categories(names)
        .bars("activations", bytes)
        .bars("weights", weights)
        .note("activations with workspaces; weights with gradient and optimiser, on every rank. " + note)
        .write(path + "bytes-per-rank.svg");
    std::printf(" and %sbytes-per-rank.svg", path.c_str());
  }
  std::printf("\n");
}

void report(Choices const& c, RunPlan const& plan, Curve const& curve, std::vector<RingRow> const& rows) {
  std::printf("held out: %.3f bits per byte after %zu steps, %.0f s, %.0f tokens/s\n", curve.held_out.back().second,
              curve.train.size(), curve.seconds, curve.tokens_per_second);
  print_rows(plan, rows);
  plot(c, plan, curve, rows);
}

template <class P> void run_in_process(Choices const& c, RunPlan const& plan, Corpus const& corpus) {
  auto const on_ring = [&](int ranks, auto f) {
    decltype(f(std::declval<ringattn::InProcess&>())) result;
    std::mutex mutex;
    ringattn::run_ranks(ranks, [&](ringattn::InProcess& comm) {
      auto mine = f(comm);
      std::lock_guard const lock(mutex);
      if (comm.rank() == 0) result = std::move(mine);
    });
    return result;
  };
  Curve const curve = on_ring(int(c.ranks), [&](auto& comm) { return train<P>(comm, plan, corpus); });
  std::vector<RingRow> rows;
  if (c.table_steps > 0)
    for (int const ranks : {1, 2, 4, 8})
      rows.push_back(on_ring(ranks, [&](auto& comm) { return measure<P>(comm, plan, corpus, c.table_steps); }));
  report(c, plan, curve, rows);
}

#if defined(RINGATTN_WITH_MPI)
template <class P> void run_mpi(Choices const& c, RunPlan const& plan, Corpus const& corpus) {
  ringattn::Mpi comm(MPI_COMM_WORLD);
  Curve const curve = train<P>(comm, plan, corpus);
  std::vector<RingRow> rows;  // of this job's ring only
  if (c.table_steps > 0) rows.push_back(measure<P>(comm, plan, corpus, c.table_steps));
  if (comm.rank() == 0) report(c, plan, curve, rows);
}
#endif

template <class Precision, int head_dim> void run_with(Choices const& c, RunPlan const& plan, Corpus const& corpus) {
#if defined(RINGATTN_WITH_MPI)
  if (c.comm == "mpi") return run_mpi<DecoderPolicy<Precision, ringattn::Mpi, head_dim>>(c, plan, corpus);
#endif
  run_in_process<DecoderPolicy<Precision, ringattn::InProcess, head_dim>>(c, plan, corpus);
}

template <class Precision> void run(Choices const& c, RunPlan const& plan, Corpus const& corpus) {
  if (plan.model.width / plan.model.heads == 32) return run_with<Precision, 32>(c, plan, corpus);
  run_with<Precision, 64>(c, plan, corpus);
}

/// Brings MPI up and down if the job asks for it.
struct MpiJob {
  bool const used;
  int rank = 0, size = 1;

  explicit MpiJob(bool wanted) : used(wanted) {
#if defined(RINGATTN_WITH_MPI)
    if (!used) return;
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
#endif
  }
  void end(int status) const {
#if defined(RINGATTN_WITH_MPI)
    if (used && status == 1) MPI_Abort(MPI_COMM_WORLD, status);  // peers may be gone: nothing collective any more
    if (used) MPI_Finalize();
#endif
    static_cast<void>(status);
  }
};

}  // namespace

int main(int argc, char** argv) {
  Choices c;
  RunPlan plan;
  ModelShape& m = plan.model;
  int64_t seed = 1;
  m.hidden = m.kv_heads = 0;
  Arguments arguments("train_long_context", "trains a byte-level decoder on long windows, sharded over a ring");
  arguments.add("--ranks", c.ranks, 1, "ranks of the ring (0: 2, or all of the MPI job)");
  arguments.add("--threads", plan.threads, 1, "threads of each rank");
  arguments.add("--comm", c.comm, {"inprocess", "mpi"}, "ranks are threads, or processes started by mpirun");
  arguments.add("--precision", c.precision, {"fp32", "fp64"}, "of everything");
  arguments.add("--data", c.data, "file of bytes or FASTA, maybe .gz (empty: the C++ library's headers)");
  arguments.add("--seq", m.seq, 1, "bytes of a window");
  arguments.add("--batch", m.batch, 1, "windows of a step");
  arguments.add("--layers", m.layers, 1, "decoder layers");
  arguments.add("--width", m.width, 1, "of the tokens between layers");
  arguments.add("--heads", m.heads, 1, "width / heads must be 32 or 64");
  arguments.add("--kv-heads", m.kv_heads, 1, "divides heads (0: half of heads, if even)");
  arguments.add("--hidden", m.hidden, 1, "of the feed-forward (0: 8/3 width)");
  arguments.add("--block", m.block, 1, "tokens at a time outside attention");
  arguments.add("--tied", m.tied, "the head is the embedding");
  arguments.add("--keep-attention", m.keep_attention, "keep attention's output instead of computing it again");
  arguments.add("--zero-attention", m.zero_attention, "ablation: attention gives zero");
  arguments.add("--steps", plan.steps, 1, "of the optimiser");
  arguments.add("--seconds", plan.seconds, "of training at most; 0: no limit (and the same bits every time)");
  arguments.add("--rate", plan.train.peak_rate, "largest learning rate");
  arguments.add("--warm-up", plan.train.warm_up, 1, "steps");
  arguments.add("--decay", plan.train.adamw.weight_decay, "weight decay");
  arguments.add("--seed", seed, 0, "of weights and windows");
  arguments.add("--eval-every", plan.eval_every, 1, "steps");
  arguments.add("--eval-bytes", plan.eval_tokens, 1, "held-out bytes judged at the end");
  arguments.add("--table-steps", c.table_steps, 0, "steps on each ring of the table at the end; 0: no table");
  arguments.add("--out", c.out, "directory for the plots");
  arguments.add("--log", plan.log, "file for one line per step");
  arguments.parse(argc, argv);
  plan.train.seed = std::uint64_t(seed);
  if (m.kv_heads == 0) m.kv_heads = m.heads % 2 == 0 ? m.heads / 2 : m.heads;
  if (m.hidden == 0) m.hidden = (m.width * 8 / 3 + 15) / 16 * 16;
  if (m.width % m.heads != 0 || (m.width / m.heads != 32 && m.width / m.heads != 64))
    arguments.fail("--width " + std::to_string(m.width) + " / --heads " + std::to_string(m.heads) +
                   " must be 32 or 64");
  if (m.heads % m.kv_heads != 0)
    arguments.fail("--kv-heads " + std::to_string(m.kv_heads) + " does not divide --heads " + std::to_string(m.heads));
  if (c.ranks > 1024 || plan.threads > 1024) arguments.fail("--ranks and --threads take at most 1024");
  if (c.table_steps > 5) arguments.fail("--table-steps takes at most 5");
#if !defined(RINGATTN_WITH_MPI)
  if (c.comm == "mpi") arguments.fail("--comm mpi: this program was built without MPI");
#endif
  std::error_code error;
  std::filesystem::create_directories(c.out, error);
  if (!std::filesystem::is_directory(c.out)) arguments.fail("--out: cannot make the directory '" + c.out + "'");

  if (!plan.log.empty()) {
    std::FILE* const file = std::fopen(plan.log.c_str(), "w");
    if (file == nullptr) arguments.fail("--log: cannot write '" + plan.log + "'");
    std::fclose(file);
  }
  single_threaded_blas();

  Corpus corpus;
  try {
    corpus = load_corpus(c.data);
  } catch (std::exception const& e) {
    arguments.fail(std::string("--data: ") + e.what());
  }
  if (int64_t(corpus.text.size() / 10) <= m.seq)
    arguments.fail("--seq " + std::to_string(m.seq) + " is too long: a tenth of the " +
                   std::to_string(corpus.text.size()) + " bytes of data is held out and must hold a window");

  MpiJob const job(c.comm == "mpi");
  if (job.used && c.ranks != 0 && c.ranks != job.size) {
    if (job.rank == 0)
      std::fprintf(stderr, "train_long_context: --ranks %lld, but the MPI job has %d\n",
                   static_cast<long long>(c.ranks), job.size);
    job.end(2);
    return 2;
  }
  if (c.ranks == 0) c.ranks = job.used ? job.size : 2;
  if (job.rank == 0)
    std::printf("data: %s, %.1f MB; %lld ranks (%s), %s, %lld windows of %lld bytes a step\n", corpus.name.c_str(),
                double(corpus.text.size()) / 1e6, static_cast<long long>(c.ranks), c.comm.c_str(), c.precision.c_str(),
                static_cast<long long>(m.batch), static_cast<long long>(m.seq));
  int status = 0;
  try {
    if (c.precision == "fp64")
      run<ringattn::Fp64>(c, plan, corpus);
    else
      run<ringattn::Fp32>(c, plan, corpus);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "train_long_context: %s\n", e.what());
    status = 1;
  }
  job.end(status);
  return status;
}
