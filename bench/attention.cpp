// SPDX-License-Identifier: Apache-2.0
// How fast is attention on this CPU, in GFLOP/s and in percent of what its multipliers do at most?
//
//   attention                                        every shape, forward and backward, one thread and all
//   attention --only 'forward-fp32.*-t1' --json a.jsonl
//   attention --check bench/targets.json --again 3   exit status 1 if a median is below its gate
#include <algorithm>
#include <cstring>
#include <regex>
#include <set>

#include "attention_case.hpp"
#include "measure.hpp"

namespace {

using namespace bench;

/// One shape, pass and number of threads, and what was last measured of it.
struct Case {
  Shape const* shape;
  bool backward;
  int threads;
  std::string name;
  Json json;

  double median(char const* what) const { return json.find(what)->number_or("median", 0); }
  bool shared() const { return median("cpu_per_thread") < 0.97; }  ///< other programs had part of the CPU
};

std::vector<Case> cases(std::regex const& only, std::vector<int64_t> const& threads) {
  std::vector<Case> out;
  for (Shape const& shape : shapes)
    for (bool backward : {false, true})
      for (int64_t t : threads) {
        if (backward && shape.queries > 0) continue;
        std::string const name = (backward ? "backward-" : "forward-") + shape.name() + "-t" + std::to_string(t);
        if (std::regex_search(name, only)) out.push_back({&shape, backward, int(t), name, {}});
      }
  return out;
}

Json describe(Case const& c) {
  Shape const& s = *c.shape;
  return {{"bench", "attention"},
          {"name", c.name},
          {"pass", c.backward ? "backward" : "forward"},
          {"precision", s.precision},
          {"mask", s.mask},
          {"head_dim", s.head_dim},
          {"seq", double(s.seq)},
          {"heads", double(s.heads)},
          {"kv_heads", double(s.kv_heads)},
          {"batch", double(s.batch)},
          {"queries", double(s.queries > 0 ? s.queries : s.seq)},
          {"threads", c.threads}};
}

Json run(Shape const& shape, Settings const& settings) {
  if (std::strcmp(shape.precision, "bf16") == 0) return run_shape<Bf16>(shape, settings);
  if (std::strcmp(shape.precision, "fp16") == 0) return run_shape<Fp16>(shape, settings);
  if (std::strcmp(shape.precision, "fp64") == 0) return run_shape<Fp64>(shape, settings);
  return run_shape<Fp32>(shape, settings);
}

void measure(Case& c, Options const& options, Json const& where) {
  Json const measured = run(*c.shape, {.backward = c.backward,
                                       .threads = c.threads,
                                       .repetitions = int(options.number("--repetitions", 9)),
                                       .rows = int64_t(options.number("--rows", 32))});
  if (measured.kind() == Json::Kind::null)
    throw std::runtime_error("attention_case.cpp does not instantiate " + c.shape->name());
  c.json = describe(c);
  for (auto const& [key, value] : measured.members()) c.json.set(key, value);
  c.json.set("machine", where);
}

void print_header(Json const& where) {
  std::printf("# %s\n%-42s %8s %6s  %-12s %6s %6s %5s  errors against fp64 (max/rms)\n", where.dump().c_str(), "case",
              "GFLOP/s", "% peak", "min..max", "% cpu", "peak", "cpu/t");
}

void print(Case const& c) {
  Json const& percent = *c.json.find("percent");
  std::printf("%-42s %8.1f %6.1f  %5.1f..%-5.1f %6.1f %6.0f %5.2f", c.name.c_str(), c.median("gflops"),
              c.median("percent"), percent.number_or("min", 0), percent.number_or("max", 0), c.median("percent_cpu"),
              c.median("peak"), c.median("cpu_per_thread"));
  if (Json const* error = c.json.find("error"))
    for (auto const& [tensor, norms] : error->members())
      std::printf("  %s %.0e/%.0e", tensor.c_str(), norms.number_or("max", NAN), norms.number_or("rms", NAN));
  std::printf("\n");
  std::fflush(stdout);
}

/// One target beside what was measured for it.
struct Verdict {
  std::string what;
  double value, gate, goal;
  std::vector<Case*> of;  ///< the cases that the value comes from

  bool below() const { return !(value >= gate); }
};

std::vector<Verdict> judge(std::vector<Case>& measured, Json const& targets) {
  std::vector<Verdict> out;
  auto const add = [&](std::string what, double value, Json const& target, std::vector<Case*> of) {
    double const gate = target.number_or("gate", 0);
    out.push_back({std::move(what), value, gate, target.number_or("goal", gate), std::move(of)});
  };
  auto const each = [&](char const* list, auto&& value_of, char const* unit) {
    if (Json const* found = targets.find(list))
      for (auto const& [key, target] : found->members()) {
        if (Json const* isa = target.find("isa"))
          if (!std::regex_search(isa_name(), std::regex(isa->text()))) continue;
        std::regex const only(target.find("only")->text());
        for (Case& c : measured)
          if (std::regex_search(c.name, only)) add(c.name + unit, value_of(c), target, {&c});
      }
  };
  each(
      "percent", [](Case const& c) { return c.median("percent"); }, "");
  each(
      "percent_of_read",
      [](Case const& c) {
        return 100 * c.median("kv_gb_per_s") / c.json.find("machine")->number_or("read_gb_per_s", NAN);
      },
      " of read");
  if (Json const* target = targets.find("speedup_of_two_threads")) {
    std::regex const only(target->find("only")->text());
    for (Case& one : measured)
      for (Case& two : measured)
        if (one.threads == 1 && two.threads == 2 && one.shape == two.shape && one.backward == two.backward &&
            std::regex_search(two.name, only))
          add(two.name + " speedup", two.median("gflops") / one.median("gflops"), *target, {&one, &two});
  }
  return out;
}

void print(Verdict const& v) {
  bool const shared = std::any_of(v.of.begin(), v.of.end(), [](Case const* c) { return c->shared(); });
  std::printf("%-6s %-50s %6.2f  gate %g, goal %g%s\n",
              v.below()           ? "BELOW"
              : v.value >= v.goal ? "goal"
                                  : "gate",
              v.what.c_str(), v.value, v.gate, v.goal, shared ? "  (other programs had part of the CPU)" : "");
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
                         {"--again N", "measure what is below its gate again, up to N times (default 0)"},
                         {"--list", "print the shapes as JSON lines and stop"}});
  try {
    std::vector<Case> all = cases(std::regex(options.text("--only", "")),
                                  options.numbers("--threads", cores > 1 ? "1," + std::to_string(cores) : "1"));
    if (options.has("--list")) {
      for (Case const& c : all) std::printf("%s\n", describe(c).dump().c_str());
      return 0;
    }
    JsonLines json(options.text("--json", ""));
    bool const table = options.text("--json", "") != "-";
    Json where = machine();
    where.set("read_gb_per_s", read_gigabytes_per_second());
    auto const take = [&](Case& c) {
      measure(c, options, where);
      json.write(c.json);
      if (table) print(c);
    };
    if (table) print_header(where);
    for (Case& c : all) take(c);

    if (!options.has("--check")) return 0;
    Json const targets = Json::read(options.text("--check", ""));
    std::vector<Verdict> verdicts = judge(all, targets);
    // A machine that is shared has slow minutes: the last measurement counts, not the best one.
    for (int64_t left = int64_t(options.number("--again", 0)); left > 0; --left) {
      std::set<Case*> again;
      for (Verdict const& v : verdicts)
        if (v.below()) again.insert(v.of.begin(), v.of.end());
      if (again.empty()) break;
      if (table) std::printf("# %zu cases again\n", again.size());
      for (Case* c : again) take(*c);
      verdicts = judge(all, targets);
    }
    for (Verdict const& v : verdicts) print(v);
    auto const below = std::count_if(verdicts.begin(), verdicts.end(), [](Verdict const& v) { return v.below(); });
    std::printf("%td of %zu targets are below their gate\n", below, verdicts.size());
    return below > 0 || verdicts.empty() ? 1 : 0;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
