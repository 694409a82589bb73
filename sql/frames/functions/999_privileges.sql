-- Postgres lets PUBLIC execute each new function. The private schema is closed to every role of the
-- API; this is the second lock, as sql/functions/999_privileges.sql has it for the main part.

revoke execute
  on function
    purple_flea.approval_of, purple_flea.keep_approval, purple_flea.keep_media,
    purple_flea.keep_submission, purple_flea.publish_frame, purple_flea.record_channel,
    purple_flea.record_media, purple_flea.record_policy, purple_flea.record_submission,
    purple_flea.refuse_move, purple_flea.submission_payload, purple_flea.tell_approval,
    purple_flea.tell_media, purple_flea.tell_submission, purple_flea.uuid_of
  from public, anon, authenticated, service_role, purple_flea_worker, purple_flea_operator;
