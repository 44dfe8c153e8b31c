// SPDX-License-Identifier: Apache-2.0
// How fast is attention on this CPU, in GFLOP/s and in percent of what its multipliers do at most?
//
//   attention                                        every shape, forward and backward, one thread and all
//   attention --only 'forward-fp32.*-t1' --json a.jsonl
//   attention --check bench/targets.json             exit status 1 if a median is below its gate
#include <cstring>
#include <regex>

#include "attention_case.hpp"
#include "measure.hpp"

namespace {

using namespace bench;

struct Result {
  std::string name;
  int threads;
  Json json;

  double median(char const* what) const { return json.find(what)->number_or("median", 0); }
};

Json run(Shape const& shape, Settings const& settings) {
  if (std::strcmp(shape.precision, "bf16") == 0) return run_shape<Bf16>(shape, settings);
  if (std::strcmp(shape.precision, "fp16") == 0) return run_shape<Fp16>(shape, settings);
  if (std::strcmp(shape.precision, "fp64") == 0) return run_shape<Fp64>(shape, settings);
  return run_shape<Fp32>(shape, settings);
}

Json describe(Shape const& s, std::string const& name, char const* pass, int threads) {
  return {{"bench", "attention"},
          {"name", name},
          {"pass", pass},
          {"precision", s.precision},
          {"mask", s.mask},
          {"head_dim", s.head_dim},
          {"seq", double(s.seq)},
          {"heads", double(s.heads)},
          {"kv_heads", double(s.kv_heads)},
          {"batch", double(s.batch)},
          {"queries", double(s.queries > 0 ? s.queries : s.seq)},
          {"threads", threads}};
}

void print(Result const& r) {
  Json const& percent = *r.json.find("percent");
  std::printf("%-42s %8.1f %6.1f  %5.1f..%-5.1f %6.1f %6.0f %5.2f", r.name.c_str(), r.median("gflops"),
              r.median("percent"), percent.number_or("min", 0), percent.number_or("max", 0), r.median("percent_cpu"),
              r.median("peak"), r.median("cpu_per_thread"));
  if (Json const* error = r.json.find("error"))
    for (auto const& [tensor, norms] : error->members())
      std::printf("  %s %.0e/%.0e", tensor.c_str(), norms.number_or("max", NAN), norms.number_or("rms", NAN));
  std::printf("\n");
  std::fflush(stdout);
}

/// One line per target that something was measured for; how many are below their gate.
int check(std::vector<Result> const& results, Json const& targets) {
  int below = 0, tried = 0;
  auto const line = [&](std::string const& name, double value, Json const& t, bool shared) {
    double const gate = t.number_or("gate", 0), goal = t.number_or("goal", gate);
    char const* const verdict = !(value >= gate) ? "BELOW" : value >= goal ? "goal" : "gate";
    std::printf("%-6s %-42s %6.2f  gate %g, goal %g%s\n", verdict, name.c_str(), value, gate, goal,
                shared ? "  (other programs had part of the CPU)" : "");
    below += !(value >= gate);
    ++tried;
  };
  auto const shared = [](Result const& r) { return r.median("cpu_per_thread") < 0.97; };
  bool const avx2 = std::strcmp(isa_name(), "avx2") == 0;
  if (Json const* list = targets.find(avx2 ? "avx2" : "percent"))
    for (auto const& [key, t] : list->members())
      for (Result const& r : results)
        if (std::regex_search(r.name, std::regex(t.find("only")->text())))
          line(r.name, r.median("percent"), t, shared(r));
  if (Json const* t = targets.find("speedup_of_two_threads"))
    for (Result const& one : results)
      for (Result const& two : results) {
        if (one.threads != 1 || two.threads != 2) continue;
        if (one.name.substr(0, one.name.size() - 1) != two.name.substr(0, two.name.size() - 1)) continue;
        if (std::regex_search(two.name, std::regex(t->find("only")->text())))
          line(two.name + " speedup", two.median("gflops") / one.median("gflops"), *t, shared(one) || shared(two));
      }
  std::printf("%d of %d targets are below their gate\n", below, tried);
  return below + (tried == 0);
}

}  // namespace

int main(int argc, char** argv) {
  int const cores = std::max(1, int(std::thread::hardware_concurrency()));
  Options const options(argc, argv,
                        {{"--only REGEX", "names to run, as printed: pass-precision-mask-dD-nN-hHxK-bB[-qQ]-tT"},
                         {"--threads LIST", "numbers of threads (default 1 and all cores)"},
                         {"--repetitions N", "timed repetitions of each (default 9)"},
                         {"--rows N", "rows compared with fp64 (default 32, 0: none)"},
                         {"--json FILE", "append JSON lines (- : stdout)"},
                         {"--check FILE", "compare medians with targets"},
                         {"--list", "print the shapes as JSON lines and stop"}});
  std::vector<Result> results;
  try {
    JsonLines json(options.text("--json", ""));
    std::regex const only(options.text("--only", ""));
    Json where = machine();
    if (!options.has("--list")) where.set("read_gb_per_s", read_gigabytes_per_second());
    bool header = false;
    for (Shape const& shape : shapes)
      for (bool backward : {false, true})
        for (int64_t threads : options.numbers("--threads", cores > 1 ? "1," + std::to_string(cores) : "1")) {
          if (backward && shape.queries > 0) continue;
          char const* const pass = backward ? "backward" : "forward";
          std::string const name = std::string(pass) + "-" + shape.name() + "-t" + std::to_string(threads);
          if (!std::regex_search(name, only)) continue;
          Json line = describe(shape, name, pass, int(threads));
          if (options.has("--list")) {
            std::printf("%s\n", line.dump().c_str());
            continue;
          }
          if (!std::exchange(header, true) && options.text("--json", "") != "-")
            std::printf("# %s\n%-42s %8s %6s  %-12s %6s %6s %5s  errors against fp64 (max/rms)\n", where.dump().c_str(),
                        "case", "GFLOP/s", "% peak", "min..max", "% cpu", "peak", "cpu/t");
          Json const measured = run(shape, {.backward = backward,
                                            .threads = int(threads),
                                            .repetitions = int(options.number("--repetitions", 9)),
                                            .rows = int64_t(options.number("--rows", 32))});
          if (measured.kind() == Json::Kind::null)
            throw std::runtime_error("attention_case.cpp does not instantiate " + shape.name());
          for (auto const& [key, value] : measured.members()) line.set(key, value);
          line.set("machine", where);
          json.write(line);
          results.push_back({name, int(threads), line});
          if (options.text("--json", "") != "-") print(results.back());
        }
    if (options.has("--check")) return check(results, Json::read(options.text("--check", ""))) == 0 ? 0 : 1;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
