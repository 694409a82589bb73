-- Rows in every table that this release has. For a superuser, right after the release's own file.

set session_replication_role = replica;
truncate public.agents, public.wallet_changes, public.trade_results, public.escrow_requests, purple_flea.secrets;
INSERT INTO public.agents (id, api_key, balance, status, created_at, owner_id) VALUES ('agent-001', '', 100.0000, 'idle', '2026-11-25 07:38:37.722191+00', NULL);
INSERT INTO public.agents (id, api_key, balance, status, created_at, owner_id) VALUES ('agent-002', '', 50.1234, 'trading', '2026-11-25 07:38:37.722191+00', NULL);
INSERT INTO public.escrow_requests (id, sender_id, receiver_id, amount, pf_escrow_id, status, created_at) VALUES (1, 'agent-001', 'agent-002', 2.5000, NULL, 'pending', '2026-11-25 07:38:37.734722+00');
INSERT INTO public.escrow_requests (id, sender_id, receiver_id, amount, pf_escrow_id, status, created_at) VALUES (2, 'agent-002', 'agent-001', 1.0000, NULL, 'pending', '2026-11-25 07:38:37.734722+00');
INSERT INTO public.trade_results (id, agent_id, game, wager, outcome, payout, created_at) VALUES (1, 'agent-001', 'crash', 1.0000, 'win', 1.5000, '2026-11-25 07:38:37.734056+00');
INSERT INTO public.trade_results (id, agent_id, game, wager, outcome, payout, created_at) VALUES (2, 'agent-002', 'coin-flip', 2.0000, 'loss', 0.0000, '2026-11-25 07:38:37.734056+00');
INSERT INTO public.wallet_changes (id, agent_id, change_type, change_amount, new_balance, created_at) VALUES (1, 'agent-001', 'deposit', 100.0000, 100.0000, '2026-11-25 07:38:37.724174+00');
INSERT INTO public.wallet_changes (id, agent_id, change_type, change_amount, new_balance, created_at) VALUES (2, 'agent-001', 'withdrawal', -5.0000, 95.0000, '2026-11-25 07:38:37.724174+00');
INSERT INTO public.wallet_changes (id, agent_id, change_type, change_amount, new_balance, created_at) VALUES (3, 'agent-002', 'deposit', 12.3456, 62.4690, '2026-11-25 07:38:37.724174+00');
INSERT INTO public.wallet_changes (id, agent_id, change_type, change_amount, new_balance, created_at) VALUES (4, 'agent-002', 'deposit', 1.0000, 1.0000, '2026-11-25 07:38:37.724174+00');
INSERT INTO public.wallet_changes (id, agent_id, change_type, change_amount, new_balance, created_at) VALUES (5, 'agent-002', 'deposit', 9.0000, 9.0000, '2026-11-25 07:38:37.724174+00');
INSERT INTO purple_flea.secrets (name, secret) VALUES ('purple_flea_function_url', 'https://function.example/execute-trade');
INSERT INTO purple_flea.secrets (name, secret) VALUES ('purple_flea_webhook_secret', 'whsec_cHVycGxlLWZsZWEtZWRnZS10ZXN0LXdlYmhvb2stc2VjcmV0');
SELECT pg_catalog.setval('public.escrow_requests_id_seq', 2, true);
SELECT pg_catalog.setval('public.trade_results_id_seq', 2, true);
SELECT pg_catalog.setval('public.wallet_changes_id_seq', 5, true);
set session_replication_role = origin;
