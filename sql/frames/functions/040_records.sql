-- The records that the events of frames are about, for public.read_record. A function for each
-- kind; null where the tenant has no such record.

create or replace function purple_flea.uuid_of(id text) returns uuid
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then id::uuid
  end;
end;
$$;
comment on function purple_flea.uuid_of(text) is 'Reads a uuid; null for any other text.';

create or replace function purple_flea.record_submission(of_tenant uuid, record_id text)
  returns jsonb
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select to_jsonb(s)
    from public.frame_submissions s
    where s.id = purple_flea.uuid_of(record_id)
      and s.tenant_id = of_tenant
  );
end;
$$;
comment on function purple_flea.record_submission(uuid, text) is
  'Gives a submission of a tenant by its id, or null.';

create or replace function purple_flea.record_media(of_tenant uuid, record_id text) returns jsonb
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select to_jsonb(m)
    from public.frame_media m
    where m.id = purple_flea.uuid_of(record_id)
      and m.tenant_id = of_tenant
  );
end;
$$;
comment on function purple_flea.record_media(uuid, text) is
  'Gives a medium of a tenant''s frame by its id, or null.';

create or replace function purple_flea.record_channel(of_tenant uuid, record_id text) returns jsonb
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  most_frames constant integer := 100;
begin
  return (
    select to_jsonb(c) || jsonb_build_object('timeline', coalesce(
      (
        select jsonb_agg(
          jsonb_build_object(
            'position',      t.position,
            'submission_id', t.submission_id,
            'published_at',  t.published_at
          )
          order by t.position desc
        )
        from (
          select *
          from public.channel_timeline l
          where l.channel_id = c.id
          order by l.position desc
          limit most_frames
        ) as t
      ),
      '[]'
    ))
    from public.channels c
    where c.id = purple_flea.uuid_of(record_id)
      and c.tenant_id = of_tenant
  );
end;
$$;
comment on function purple_flea.record_channel(uuid, text) is
  'Gives a channel of a tenant by its id, with the newest 100 frames of its timeline, or null.';

create or replace function purple_flea.record_policy(of_tenant uuid, record_id text) returns jsonb
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select to_jsonb(p)
    from public.approval_policies p
    where p.id = purple_flea.uuid_of(record_id)
      and p.tenant_id = of_tenant
  );
end;
$$;
comment on function purple_flea.record_policy(uuid, text) is
  'Gives an approval policy of a tenant by its id, or null.';
