"""Every behaviour of a circuit, by number, in words, with the tests that prove it: one table, row by row.

1 to 30 are those that any circuit breaker owes its callers; from 31 on come those that this one
promises besides. ``tests/core/policy/test_circuit_behaviours.py`` holds the table to the tests.
"""

from __future__ import annotations

from typing import NamedTuple

CLOSED = "core/policy/test_circuit_closed.py"
WINDOW = "core/policy/test_circuit_window.py"
OPEN = "core/policy/test_circuit_open.py"
HALF_OPEN = "core/policy/test_circuit_half_open.py"
OPERATOR = "core/policy/test_circuit_operator.py"
RESTART = "core/policy/test_circuit_restart.py"
GUARD = "core/policy/test_circuit_guard.py"
PRESETS = "core/policy/test_circuit_presets.py"
CAUSES = "core/policy/test_circuit_causes.py"
PROPERTIES = "core/policy/test_circuit_properties.py"
SHARING = "core/policy/test_circuit_sharing.py"
INSTANCES = "core/policy/test_circuit_instances.py"
ENGINE = "core/engine/test_circuits.py"
LIFE = "core/engine/test_request_life.py"
LIMITS = "core/engine/test_limits.py"
KEPT = "core/engine/test_restart.py"


class Behaviour(NamedTuple):
    number: int
    says: str
    proofs: dict[str, tuple[str, ...]]
    """Names of tests by file."""


BEHAVIOURS = [
    Behaviour(
        1,
        "It begins closed, having counted nothing; one configured to begin open, observing or disabled does.",
        {
            CLOSED: (
                "test_1_starts_closed_with_zero_counts",
                "test_1_a_configured_start_is_honoured",
                "test_1_a_start_as_open_ends_like_any_break",
            )
        },
    ),
    Behaviour(
        2,
        "With fewer calls than the minimum no rate opens it, were they all failed or slow.",
        {
            CLOSED: (
                "test_2_below_the_minimum_calls_a_rate_never_opens",
                "test_2_below_the_minimum_calls_a_slow_rate_never_opens",
            )
        },
    ),
    Behaviour(
        3,
        "A threshold that is just reached is reached: of failures, of their rate, of slow calls.",
        {
            CLOSED: (
                "test_3_the_threshold_is_inclusive",
                "test_3_rates_are_inclusive",
                "test_8_slow_successes_alone_open_at_the_slow_rate",
            )
        },
    ),
    Behaviour(
        4,
        "Each result is judged, so that a success which completes the minimum can open it.",
        {
            CLOSED: (
                "test_4_rates_are_judged_at_a_success_too",
                "test_successes_do_not_hide_a_failing_majority",
            ),
            CAUSES: ("test_a_rate_reached_by_a_success_says_whether_that_was_slow",),
        },
    ),
    Behaviour(
        5,
        "A window of calls forgets exactly its oldest; one of time forgets at the exact age, calls or none.",
        {
            CLOSED: (
                "test_5_statistics_age_with_no_new_calls",
                "test_5_a_window_of_calls_forgets_by_calls_and_not_by_time",
                "test_old_failures_leave_the_window_exactly_at_its_length",
            ),
            WINDOW: (
                "test_5_a_count_window_evicts_exactly_the_oldest",
                "test_5_a_time_window_drops_a_bucket_exactly_at_its_age_without_new_calls",
                "test_5_a_bucket_leaves_with_all_it_holds_at_the_age_of_its_first_result",
                "test_a_bucket_ends_exactly_at_its_width",
                "test_to_look_at_a_window_does_not_split_its_buckets",
                "test_what_comes_after_a_look_leaves_in_its_time_too",
                "test_a_count_window_holds_exactly_the_last_results",
            ),
        },
    ),
    Behaviour(
        6,
        "Failures on both sides of a bucket's border are added up.",
        {
            CLOSED: ("test_6_failures_of_neighbouring_buckets_add_up",),
            WINDOW: ("test_6_failures_in_neighbouring_buckets_add_up",),
        },
    ),
    Behaviour(
        7,
        "After a long silence nothing is left, and nothing old comes back.",
        {
            CLOSED: ("test_7_a_long_idle_jump_clears_everything",),
            WINDOW: ("test_7_a_long_idle_jump_clears_everything_and_no_stale_bucket_returns",),
        },
    ),
    Behaviour(
        8,
        "Slow successes open it by themselves; a slow failure is in both rates.",
        {
            CLOSED: (
                "test_8_slow_successes_alone_open_at_the_slow_rate",
                "test_8_slow_failures_count_in_both_rates",
            )
        },
    ),
    Behaviour(
        9,
        "What is ignored is in no rate and returns its permit; to be a success is something else.",
        {
            CLOSED: (
                "test_9_ignored_results_change_no_rate_and_give_the_permit_back",
                "test_9_counting_as_success_is_a_different_class",
            ),
            GUARD: ("test_9_what_is_ignored_counts_for_nothing_and_comes_back_unchanged",),
        },
    ),
    Behaviour(
        10,
        "An error that comes inside a 200 is a failure.",
        {
            CLOSED: ("test_10_a_200_with_an_error_inside_counts_as_a_failure",),
            ENGINE: ("test_an_error_inside_a_200_counts_as_a_failure",),
        },
    ),
    Behaviour(
        11,
        "However many fail together, its opening is told once, with rate and cause.",
        {
            CLOSED: (
                "test_11_opening_fires_exactly_one_event_with_rate_and_cause_among_100_concurrent_failures",
            ),
            ENGINE: ("test_fifty_concurrent_failures_open_it_with_one_event",),
        },
    ),
    Behaviour(
        12,
        "While open it calls nobody, counts whom it rejects, says when to come back (never below 0) and why.",
        {
            OPEN: (
                "test_12_rejects_counts_it_and_says_when_to_retry_and_why",
                "test_12_retry_after_is_never_below_zero",
            ),
            GUARD: ("test_12_an_open_circuit_calls_nothing_and_says_when_to_retry_and_why",),
            ENGINE: ("test_an_open_circuit_rejects_without_calling_and_says_why_and_until_when",),
        },
    ),
    Behaviour(
        13,
        "A call from before the opening neither prolongs the break nor opens it again.",
        {OPEN: ("test_13_results_from_before_the_opening_neither_extend_the_break_nor_fire_again",)},
    ),
    Behaviour(
        14,
        "It waits to the moment, whatever becomes of the calendar.",
        {
            OPEN: ("test_14_waits_exactly",),
            ENGINE: ("test_a_step_of_the_wall_clock_neither_ends_nor_prolongs_a_break",),
        },
    ),
    Behaviour(
        15,
        "Each failed probing makes the break longer, spread and up to a maximum; closing starts over.",
        {
            OPEN: (
                "test_15_the_break_grows_with_each_failed_probing_up_to_its_maximum_with_jitter",
                "test_15_the_back_off_resets_after_closing",
                "test_15_a_thousand_failed_probings_stay_finite",
                "test_15_a_break_above_the_maximum_is_not_shortened_by_it",
                "test_15_the_same_seed_draws_the_same_breaks_and_another_one_others",
            )
        },
    ),
    Behaviour(
        16,
        "A single result that names a time opens it until then.",
        {
            OPEN: (
                "test_16_one_result_may_open_until_a_stated_time",
                "test_16_a_later_time_extends_an_earlier_one_never_shortens",
                "test_16_a_probe_may_state_a_time",
                "test_16_a_time_that_never_comes_is_refused",
                "test_16_a_time_that_has_passed_opens_nothing",
                "test_16_the_result_that_states_a_time_counts_as_a_failure",
            ),
            CAUSES: ("test_a_stated_time_is_told_whole_and_a_later_one_replaces_its_words",),
        },
    ),
    Behaviour(
        17,
        "Who is cancelled learns that he was cancelled; the circuit counts it neither way.",
        {
            OPEN: ("test_17_a_cancelled_call_is_neither_success_nor_failure",),
            GUARD: ("test_17_a_cancelled_caller_is_told_cancelled_and_counts_for_nothing",),
            ENGINE: ("test_a_cancelled_probe_is_told_cancelled_and_leaves_the_place_to_the_next",),
            LIFE: ("test_the_operator_sees_a_cancelled_request_as_nobodys_fault",),
        },
    ),
    Behaviour(
        18,
        "A hundred callers get no more probes than may run together, and in all no more than are needed.",
        {
            HALF_OPEN: (
                "test_18_the_cap_on_concurrent_probes_holds_under_100_callers",
                "test_18_the_cap_on_all_probes_holds_under_100_callers",
            ),
            GUARD: ("test_18_of_a_hundred_callers_at_once_the_cap_is_let_through",),
            ENGINE: ("test_of_a_hundred_callers_one_probes_a_half_open_account",),
        },
    ),
    Behaviour(
        19,
        "What an earlier generation reports changes nothing at all.",
        {
            HALF_OPEN: (
                "test_19_a_result_from_an_older_generation_changes_neither_counts_nor_state",
                "test_19_a_probe_of_an_earlier_probing_changes_nothing_in_a_later_one",
            )
        },
    ),
    Behaviour(
        20,
        "A probe that is cancelled or crashes frees its place without a verdict.",
        {
            HALF_OPEN: ("test_20_a_cancelled_probe_gives_its_permit_back_and_no_verdict",),
            GUARD: ("test_20_a_probe_that_crashes_gives_its_place_back_and_no_verdict",),
            ENGINE: ("test_a_cancelled_probe_is_told_cancelled_and_leaves_the_place_to_the_next",),
        },
    ),
    Behaviour(
        21,
        "A probe that is never heard of again holds its place for its own lease and no longer.",
        {
            HALF_OPEN: (
                "test_21_a_silent_probe_loses_its_place_after_its_own_lease",
                "test_21_each_probe_has_its_own_lease",
                "test_21_probes_that_fall_silent_together_are_all_counted",
                "test_a_probe_whose_lease_ends_before_it_is_slow_gives_no_verdict",
            )
        },
    ),
    Behaviour(
        22,
        "Enough successes close it with nothing on record; one failure opens it and the wait starts anew.",
        {
            HALF_OPEN: (
                "test_22_successes_close_with_a_fresh_window",
                "test_22_a_failure_reopens_and_restarts_the_wait",
            )
        },
    ),
    Behaviour(
        23,
        "A probe that is slow has failed, also one that has not ended yet.",
        {
            HALF_OPEN: (
                "test_23_a_slow_probe_is_bad",
                "test_23_a_probe_that_hangs_is_bad_as_soon_as_it_is_slow",
                "test_23_a_probe_that_is_slow_at_the_very_end_of_its_lease_is_bad",
                "test_23_a_timed_out_probe_reopens",
            ),
            CAUSES: ("test_a_slow_probe_says_how_slow",),
        },
    ),
    Behaviour(
        24,
        "Probes with ignored results may come and go without end; their place stays free for another.",
        {HALF_OPEN: ("test_24_ignored_results_keep_the_place_open_any_number_of_times",)},
    ),
    Behaviour(
        25,
        "Time alone may begin the probing; it uses up no permit, and any change before cancels it.",
        {
            HALF_OPEN: (
                "test_25_a_tick_moves_open_to_half_open_and_takes_no_permit",
                "test_25_any_transition_cancels_the_timer",
            )
        },
    ),
    Behaviour(
        26,
        "What an operator holds open stays so through time, results, stated times and restarts until an "
        "operator lifts it; one command holds many circuits, or none.",
        {
            OPERATOR: (
                "test_26_forced_open_stays_through_time_and_results_until_an_operator_lifts_it",
                "test_26_a_hold_with_an_end_probes_afterwards",
                "test_26_a_hold_needs_an_end_in_the_future",
                "test_26_holding_again_replaces_reason_and_end_silently",
            ),
            RESTART: ("test_a_forced_open_without_an_end_still_needs_the_operator",),
            ENGINE: (
                "test_one_command_holds_many_circuits",
                "test_a_command_that_can_not_hold_all_holds_none",
            ),
            KEPT: ("test_a_circuit_forced_open_without_end_stays_so_until_an_operator_lifts_it",),
        },
    ),
    Behaviour(
        27,
        "Disabled, it lets all pass and counts nothing; observing, it counts, says once that it would have "
        "opened, and lets all pass.",
        {
            OPERATOR: (
                "test_27_disabled_admits_all_and_records_nothing",
                "test_27_disabled_watches_no_call_that_hangs",
                "test_27_observe_only_records_reports_once_and_rejects_nothing",
                "test_27_observing_again_reports_again",
                "test_27_observe_only_does_not_react_to_a_429",
                "test_27_closing_puts_it_to_work_again",
            ),
            ENGINE: (
                "test_set_to_observe_it_tells_what_it_would_have_done_and_rejects_nothing",
                "test_disabled_it_admits_all_and_records_nothing",
                "test_a_mode_on_the_circuit_of_a_provider_governs_all_its_accounts",
            ),
        },
    ),
    Behaviour(
        28,
        "To become what it is is no event; to become what it can't is an error that changes nothing.",
        {
            OPERATOR: (
                "test_28_a_transition_to_the_same_state_is_silent",
                "test_28_an_illegal_transition_raises_and_changes_nothing",
            ),
            ENGINE: (
                "test_one_that_does_not_work_can_not_be_told_to_probe_nor_can_the_others_of_that_command",
            ),
        },
    ),
    Behaviour(
        29,
        "Its events come in order; a listener that raises, commands it, or never reads harms nobody.",
        {
            OPERATOR: (
                "test_29_events_form_one_chain_of_states_and_generations",
                "test_29_a_listener_that_raises_harms_neither_call_nor_state",
                "test_29_a_listener_may_command_the_circuit_and_events_stay_in_order",
            ),
            ENGINE: ("test_who_never_reads_his_events_holds_up_neither_calls_nor_circuits",),
        },
    ),
    Behaviour(
        30,
        "Settings that can't be are refused by name with what was found; what a call raises is the caller's.",
        {
            CLOSED: ("test_30_a_bad_configuration_is_refused_when_built_naming_the_value",),
            PRESETS: ("test_30_a_length_or_a_number_that_can_not_be_is_refused_by_name_with_what_was_found",),
            GUARD: ("test_30_an_exception_from_the_call_comes_back_unchanged_and_counts",),
        },
    ),
    Behaviour(
        31,
        "A call that never ends is slow from the moment at which it is, and is counted once.",
        {
            CLOSED: (
                "test_calls_that_never_end_are_counted_as_slow_at_the_next_call",
                "test_calls_that_never_end_are_counted_by_a_tick",
                "test_calls_that_hang_are_judged_with_those_that_ended",
                "test_a_call_noticed_as_slow_while_it_ran_is_not_counted_twice",
                "test_a_call_noticed_as_slow_that_succeeds_later_is_slow_once",
                "test_calls_that_ended_are_not_counted_as_hanging",
                "test_calls_that_hang_from_before_an_opening_are_not_counted_after_closing",
            ),
            ENGINE: ("test_calls_that_never_end_open_the_circuit_of_their_provider",),
        },
    ),
    Behaviour(
        32,
        "A time-out is a failure and slow, however short the wait was.",
        {
            CLOSED: (
                "test_a_time_out_counts_as_slow_and_as_a_failure",
                "test_a_time_out_opens_at_the_slow_rate_before_the_threshold",
            ),
            GUARD: ("test_a_time_out_counts_as_slow_and_comes_back_unchanged",),
        },
    ),
    Behaviour(
        33,
        "A 429 makes the next request the one test, or counts, or is ignored; many at once test once.",
        {
            CLOSED: (
                "test_a_429_makes_the_next_request_the_one_test",
                "test_a_429_whose_test_fails_opens_for_exactly_its_own_time",
                "test_fifty_parallel_429s_escalate_once",
                "test_a_429_counts_or_is_ignored_when_so_configured",
            ),
            LIMITS: (
                "test_fifty_refusals_at_once_escalate_once",
                "test_a_stated_wait_of_an_account_ends_to_the_second",
                "test_of_two_waits_the_later_end_counts",
            ),
        },
    ),
    Behaviour(
        34,
        "A permit ends once; every one given is settled, released or live.",
        {
            CLOSED: ("test_a_permit_ends_exactly_once",),
            PROPERTIES: (
                "test_10_000_steps_of_random_lives_are_the_models_and_reach_every_state_and_transition",
            ),
        },
    ),
    Behaviour(
        35,
        "To ask is to change nothing.",
        {HALF_OPEN: ("test_asking_whether_it_admits_changes_nothing",)},
    ),
    Behaviour(
        36,
        "Account, model of an account, and provider each have a circuit of their own.",
        {
            ENGINE: ("test_the_provider_of_several_accounts_has_one_circuit_and_each_account_its_own",),
            LIFE: (
                "test_a_rate_limit_on_one_model_leaves_the_others_usable",
                "test_a_provider_that_is_down_costs_at_most_its_threshold",
                "test_half_open_lets_the_provider_prove_itself",
            ),
            LIMITS: ("test_a_stated_wait_of_a_model_leaves_the_others_alone_and_ends_to_the_second",),
        },
    ),
    Behaviour(
        37,
        "The presets do what their names promise.",
        {
            PRESETS: (
                "test_each_preset_has_its_name",
                "test_rotation_makes_the_next_request_the_one_test_after_a_429_and_rests_120_s",
                "test_chain_opens_at_3_failures_for_300_s_and_probes_once",
                "test_provider_opens_at_5_failures_in_300_s_recovers_from_60_s_and_closes_after_3_of_3_probes",
                "test_provider_takes_60_s_for_slow",
                "test_service_opens_at_5_failures_for_60_s",
            )
        },
    ),
    Behaviour(
        38,
        "A restart never shortens what was forced open.",
        {
            RESTART: ("test_a_forced_open_with_an_end_is_neither_shortened_nor_prolonged",),
            KEPT: ("test_a_restart_never_shortens_a_forced_open",),
        },
    ),
    Behaviour(
        39,
        "A restart goes on with a break, its back-off, and a test that is due.",
        {
            RESTART: (
                "test_a_break_goes_on_and_the_next_one_grows_from_it",
                "test_a_break_that_ended_meanwhile_is_over_at_the_first_call_which_tells_so",
                "test_the_one_test_after_a_rate_limit_is_still_due",
                "test_breaks_that_can_not_have_been_are_not_believed",
            ),
            KEPT: (
                "test_an_open_circuit_waits_out_its_break_and_the_next_one_is_longer",
                "test_the_one_test_after_a_rate_limit_is_still_due_after_the_restart",
            ),
        },
    ),
    Behaviour(
        40,
        "An operator sets a live circuit to observe, to let all pass, to probe now, or to its normal work, "
        "and a restart leaves it so.",
        {
            ENGINE: (
                "test_set_to_observe_it_tells_what_it_would_have_done_and_rejects_nothing",
                "test_disabled_it_admits_all_and_records_nothing",
                "test_told_to_probe_now_an_open_circuit_does_not_wait_for_its_time",
            ),
            RESTART: (
                "test_a_mode_that_the_operator_set_stays",
                "test_closed_by_an_operator_stays_closed_where_the_configuration_observes",
                "test_a_start_as_open_is_cautious_at_each_start",
            ),
            KEPT: ("test_the_mode_of_a_circuit_that_an_operator_set_stays_set",),
        },
    ),
    Behaviour(
        41,
        "An operator's reset forgets counts and back-off, and lifts a cooldown.",
        {
            OPERATOR: (
                "test_resetting_a_closed_circuit_clears_its_counts",
                "test_an_operator_reset_clears_the_back_off",
            ),
            "core/engine/test_operator.py": ("test_reset_lifts_a_cooldown",),
        },
    ),
    Behaviour(
        42,
        "Once faults are healed, traffic closes it in bounded time.",
        {PROPERTIES: ("test_with_faults_healed_and_traffic_present_it_closes_in_bounded_time",)},
    ),
    Behaviour(
        43,
        "The same seed gives the same course.",
        {PROPERTIES: ("test_the_same_seed_gives_the_same_trace",)},
    ),
    Behaviour(
        44,
        "Over any life it is what a model without its cleverness is, in each state and transition.",
        {
            PROPERTIES: (
                "test_10_000_steps_of_random_lives_are_the_models_and_reach_every_state_and_transition",
            )
        },
    ),
    Behaviour(
        45,
        "The sums it keeps are those of its buckets.",
        {
            WINDOW: (
                "test_bucket_sums_equal_totals_and_every_result_leaves_between_its_age_less_a_bucket_and_its_age",
            )
        },
    ),
    Behaviour(
        46,
        "To watch running calls costs each of them the same, and no memory that grows.",
        {
            "core/policy/test_circuit_running.py": (
                "test_the_work_per_call_is_constant_on_average",
                "test_at_most_twice_the_live_calls_and_a_constant_are_kept",
            )
        },
    ),
    Behaviour(
        47,
        "After it has closed by itself, traffic returns gradually; nobody is refused for that.",
        {
            "core/engine/test_comebacks.py": (
                "test_an_account_whose_circuit_closed_comes_back_step_by_step",
                "test_the_eight_accounts_of_a_provider_come_back_together_step_by_step",
                "test_an_account_alone_is_never_refused_for_its_ramp",
                "test_a_circuit_closed_by_hand_has_no_ramp",
                "test_an_account_that_was_open_because_of_other_instances_comes_back_step_by_step",
                "test_a_suspicion_that_proves_wrong_costs_no_step_of_the_way",
            )
        },
    ),
    Behaviour(
        48,
        "That another instance's circuit opened makes a closed one test with one request; one that does not "
        "work normally takes no notice.",
        {
            SHARING: (
                "test_a_suspicion_makes_the_next_request_the_one_test_and_its_success_closes",
                "test_a_suspicion_that_proves_right_opens_on_own_evidence_for_a_first_break",
                "test_a_suspicion_outdates_the_calls_that_run",
                "test_a_suspected_circuit_whose_test_falls_silent_tests_again",
                "test_a_suspicion_of_what_does_not_work_normally_changes_nothing",
            )
        },
    ),
    Behaviour(
        49,
        "What is certain elsewhere opens it until then; extends a break, shortens none, and counts for the "
        "back-off.",
        {
            SHARING: (
                "test_what_is_certain_opens_it_until_then_without_own_evidence",
                "test_a_break_taken_over_extends_and_never_shortens",
                "test_a_probe_that_fails_after_a_break_taken_over_waits_longer_than_a_first_break",
                "test_back_off_goes_on_from_the_others_break_however_often_it_is_heard",
                "test_a_break_that_can_not_have_been_counts_as_a_first_one",
                "test_no_break_of_others_makes_ours_longer_than_the_settings_allow",
                "test_no_break_of_others_makes_ours_shorter_than_a_first_one_can_be",
                "test_a_first_break_above_the_maximum_is_the_maximum_also_when_taken_over",
                "test_a_probe_that_failed_for_one_alone_is_a_verdict_after_a_break_and_else_a_suspicion",
            ),
            INSTANCES: ("test_breaks_grow_whoever_probes",),
        },
    ),
    Behaviour(
        50,
        "Another's good probe closes what is half-open, or open because of others only; what was met here "
        "keeps its break.",
        {
            SHARING: (
                "test_anothers_good_probe_closes_what_was_open_because_of_others_and_starts_back_off_over",
                "test_what_was_met_here_keeps_its_break",
                "test_a_time_that_the_target_stated_here_is_own_evidence",
                "test_a_suspicion_that_another_has_cleared_needs_no_test",
                "test_one_that_is_closed_keeps_its_counts_when_another_closes",
            )
        },
    ),
    Behaviour(
        51,
        "While another instance probes it admits nobody, and one afterwards; nothing but a later such word "
        "prolongs that, and any change ends it.",
        {
            SHARING: (
                "test_while_another_probes_none_is_admitted_and_afterwards_one",
                "test_rejections_do_not_prolong_a_probe_elsewhere_and_its_own_word_does",
                "test_a_probe_elsewhere_that_is_over_or_never_ends_keeps_nobody_out",
                "test_a_change_of_state_ends_what_is_known_of_a_probe_elsewhere",
                "test_only_a_half_open_circuit_cares_who_probes",
                "test_probes_that_run_here_go_on_while_others_probe",
                "test_without_a_place_here_it_is_blocked_for_the_longer_of_both",
            )
        },
    ),
    Behaviour(
        52,
        "An operator's word holds wherever it was given, and beats all that instances find out.",
        {
            SHARING: (
                "test_an_operators_word_given_elsewhere_is_done_here_in_his_name",
                "test_a_hold_ends_when_the_operator_said_elsewhere",
                "test_a_hold_that_has_ended_or_can_not_end_is_none",
                "test_open_is_no_operators_word",
                "test_closing_elsewhere_forgets_what_was_counted_here",
                "test_an_operators_hold_beats_every_message_but_another_operators",
            ),
            INSTANCES: (
                "test_one_command_holds_it_everywhere_and_probes_and_breaks_of_others_do_not_lift_it",
            ),
        },
    ),
    Behaviour(
        53,
        "A message that comes too late or does not fit changes nothing and raises nothing; time acts before "
        "any does.",
        {
            SHARING: (
                "test_a_break_that_is_over_or_never_ends_is_not_taken_over",
                "test_what_can_not_be_here_raises_nothing_and_changes_nothing",
                "test_time_acts_before_a_message_does",
            )
        },
    ),
    Behaviour(
        54,
        "A restart and a rehearsal keep what was met here apart from what was taken over.",
        {
            SHARING: (
                "test_a_restart_keeps_apart_what_was_met_here_and_what_was_taken_over",
                "test_the_one_test_of_a_suspicion_is_still_due_after_a_restart",
                "test_a_record_that_contradicts_itself_is_taken_by_its_state",
                "test_a_circuit_kept_apart_hears_for_the_one_that_is_rehearsed_with",
            )
        },
    ),
    Behaviour(
        55,
        "Down for all instances, a target costs one of them its threshold and the others one test; down for "
        "one alone, it costs the others none, or a test each, and they serve on.",
        {
            INSTANCES: (
                "test_down_for_all_costs_the_first_its_threshold_and_all_others_together_one_test",
                "test_down_for_all_costs_threshold_and_one_where_only_one_has_met_it",
                "test_down_for_one_alone_costs_the_others_no_failure_and_they_serve_on",
                "test_the_test_of_one_clears_all_others_and_the_first_keeps_its_break",
                "test_others_lose_at_most_one_call_each_to_a_suspicion",
            )
        },
    ),
    Behaviour(
        56,
        "After a break one probe decides for all instances, and one that dies with it holds the others up "
        "for its lease only.",
        {
            INSTANCES: (
                "test_at_the_end_of_the_break_one_probe_decides_for_all_under_load",
                "test_an_instance_that_dies_while_it_probes_keeps_the_others_waiting_for_its_lease_only",
                "test_probes_that_several_have_to_succeed_close_it_in_few_whoever_made_them",
            )
        },
    ),
    Behaviour(
        57,
        "Late, doubled and lost messages leave no instance behind: healed, all close in bounded time.",
        {
            SHARING: ("test_once_healed_and_left_alone_it_closes_in_bounded_time",),
            INSTANCES: ("test_late_doubled_and_lost_messages_leave_none_behind",),
        },
    ),
    Behaviour(
        58,
        "Each change says whether other instances should hear of it.",
        {SHARING: ("test_what_comes_about_here_is_news",)},
    ),
]
