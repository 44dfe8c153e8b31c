// SPDX-License-Identifier: Apache-2.0
// main() of every test program: doctest, a watchdog that no hang survives, and one summary line that tests/run.py adds
// up. With RINGATTN_WITH_MPI it also brings MPI up and down.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#ifdef RINGATTN_WITH_MPI
#include <mpi.h>
#endif

namespace {

std::atomic<char const*> current_case{"(before the first)"};
int cases_run = 0, cases_failed = 0, cases_skipped = 0;
double slowest_seconds = 0;
std::string slowest_case;

/// Counts and times the test cases; prints nothing itself.
struct Summary : doctest::IReporter {
  explicit Summary(doctest::ContextOptions const&) {}
  void report_query(doctest::QueryData const&) override {}
  void test_run_start() override {}
  void test_run_end(doctest::TestRunStats const& run) override {
    cases_run = int(run.numTestCasesPassingFilters);
    cases_failed = int(run.numTestCasesFailed);
  }
  void test_case_start(doctest::TestCaseData const& data) override { current_case = data.m_name; }
  void test_case_reenter(doctest::TestCaseData const&) override {}
  void test_case_end(doctest::CurrentTestCaseStats const& stats) override {
    if (stats.seconds < slowest_seconds) return;
    slowest_seconds = stats.seconds;
    slowest_case = current_case;
  }
  void test_case_exception(doctest::TestCaseException const&) override {}
  void subcase_start(doctest::SubcaseSignature const&) override {}
  void subcase_end() override {}
  void log_assert(doctest::AssertData const&) override {}
  void log_message(doctest::MessageData const&) override {}
  void test_case_skipped(doctest::TestCaseData const& data) override { cases_skipped += data.m_skip; }
};
REGISTER_LISTENER("ringattn-summary", 1, Summary);

/// Ends the process when the tests take longer than RINGATTN_TEST_TIMEOUT seconds (240; 0 turns it off).
void start_watchdog() {
  char const* text = std::getenv("RINGATTN_TEST_TIMEOUT");
  long const seconds = text ? std::atol(text) : 240;
  if (seconds <= 0) return;
  std::thread([seconds] {
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    std::fprintf(stderr, "watchdog: still in test case '%s' after %ld s, giving up\n", current_case.load(), seconds);
    std::_Exit(3);
  }).detach();
}

std::string json_string(std::string const& s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    out += (unsigned char)c < 0x20 ? ' ' : c;
  }
  return out + '"';
}

}  // namespace

int main(int argc, char** argv) {
  start_watchdog();
  int rank = 0;
#ifdef RINGATTN_WITH_MPI
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
#endif
  doctest::Context context(argc, argv);
  int result = context.run();
#ifdef RINGATTN_WITH_MPI
  // A case counts as failed if it failed on any rank, and every rank then returns non-zero.
  int mine[2] = {cases_failed, result}, worst[2] = {0, 0};
  MPI_Allreduce(mine, worst, 2, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  cases_failed = worst[0];
  result = worst[1];
  MPI_Finalize();
#endif
  if (rank == 0 && !context.shouldExit())
    std::printf(
        "\nringattn-tests: {\"passed\": %d, \"failed\": %d, \"skipped\": %d, \"slowest\": %s, \"seconds\": %.3f}\n",
        cases_run - cases_failed, cases_failed, cases_skipped, json_string(slowest_case).c_str(), slowest_seconds);
  return result;
}
